"""Fifty trainings, each in the manner of a field and with its habits, good and bad.

Each is a LightningModule with data, small enough for an epoch in a fraction of a second. They differ in what they
demand of a callback that prunes: what a batch is, which forward pass trains, what draws, what has a state.
"""

from zoo.trainings import (
    detection,
    forecasting,
    generative,
    graphs,
    older,
    reinforcement,
    selfsupervised,
    speech,
    tabular,
    text,
    vision,
)
from zoo.trainings.training import Training

FIELDS = (
    vision,
    detection,
    generative,
    selfsupervised,
    text,
    graphs,
    forecasting,
    speech,
    reinforcement,
    tabular,
    older,
)
TRAININGS: tuple[Training, ...] = tuple(training for field in FIELDS for training in field.TRAININGS)

__all__ = ["TRAININGS", "Training"]
