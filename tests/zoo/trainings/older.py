"""Trainings that import ``pytorch_lightning``, the older name, as many still do; none where that is not installed."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from zoo.trainings.batches import SAMPLES, loader, normal, tensors
from zoo.trainings.training import Training

PAST, FUTURE = 12, 4


def n_beats() -> Any:
    from zoo.trainings.older_modules import NBeats

    return NBeats()


def denoiser() -> Any:
    from zoo.trainings.older_modules import Denoiser

    return Denoiser()


def windows() -> Any:
    y = (torch.arange(PAST + FUTURE) / 2 + normal(SAMPLES, 1)).sin()
    return loader(tensors(y[:, :PAST], y[:, PAST:]))


def noisy() -> Any:
    x = normal(SAMPLES, 3) @ normal(3, 12, seed=1)
    return loader(tensors(x, 20 + 8 * (x + 0.3 * normal(SAMPLES, 12, seed=2))))


OLDER = "pytorch_lightning"
TRAININGS = [
    Training("n_beats", "written for pytorch_lightning, no norms", n_beats, windows, lightning=OLDER),
    Training("denoiser", "the target comes first in the batch", denoiser, noisy, lightning=OLDER),
]
TRAININGS = TRAININGS if importlib.util.find_spec(OLDER) else []
