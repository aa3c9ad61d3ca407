"""Which weights go. Plain PyTorch, for any training loop."""

from reflow_lightning.pruning.allocation import Allocation
from reflow_lightning.pruning.columns import ColumnSum, KeptColumns
from reflow_lightning.pruning.criteria import Criterion, Magnitude, Random
from reflow_lightning.pruning.layerwise import uniform
from reflow_lightning.pruning.masks import Masks
from reflow_lightning.pruning.prune import check_arguments, check_model, make_masks, prune
from reflow_lightning.pruning.scores import Scores
from reflow_lightning.pruning.select import select

__all__ = [
    "Allocation",
    "ColumnSum",
    "Criterion",
    "KeptColumns",
    "Magnitude",
    "Masks",
    "Random",
    "Scores",
    "check_arguments",
    "check_model",
    "make_masks",
    "prune",
    "select",
    "uniform",
]
