"""Rounds of pruning and training, judged by their validations. Plain PyTorch, except `judge`."""

from reflow_lightning.rounds.kept import Kept
from reflow_lightning.rounds.removing import RemovedRectifier, remove_rectifier
from reflow_lightning.rounds.rounds import Round, Rounds

__all__ = ["Kept", "RemovedRectifier", "Round", "Rounds", "remove_rectifier"]
