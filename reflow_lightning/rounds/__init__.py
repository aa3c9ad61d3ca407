"""Rounds of pruning and training, judged by their validations. Plain PyTorch, but for `judge`."""

from reflow_lightning.rounds.kept import Kept
from reflow_lightning.rounds.rounds import Round, Rounds

__all__ = ["Kept", "Round", "Rounds"]
