"""Which weights go. Plain PyTorch, for any training loop."""

from reflow_lightning.pruning.allocations import (
    Allocation,
    AnyAllocation,
    DataAllocation,
    EntropyBudget,
    EntropyShares,
    KeptColumns,
    register_allocation,
    uniform,
)
from reflow_lightning.pruning.checks import check_model
from reflow_lightning.pruning.choose import Choice, choose
from reflow_lightning.pruning.coverage import Coverage
from reflow_lightning.pruning.criteria import (
    AnyCriterion,
    ColumnSum,
    Criterion,
    DataCriterion,
    Estimated,
    Fisher,
    Magnitude,
    PerOutput,
    Random,
    Snip,
    Taylor,
    Wanda,
    WoodFisher,
    register_criterion,
)
from reflow_lightning.pruning.masks import Masks
from reflow_lightning.pruning.prune import make_masks, prune
from reflow_lightning.pruning.scores import Scores
from reflow_lightning.pruning.select import select
from reflow_lightning.pruning.spec import PruneSpec
from reflow_lightning.running.forward import Forward

__all__ = [
    "Allocation",
    "AnyAllocation",
    "AnyCriterion",
    "Choice",
    "ColumnSum",
    "Coverage",
    "Criterion",
    "DataAllocation",
    "DataCriterion",
    "EntropyBudget",
    "EntropyShares",
    "Estimated",
    "Fisher",
    "Forward",
    "KeptColumns",
    "Magnitude",
    "Masks",
    "PerOutput",
    "PruneSpec",
    "Random",
    "Scores",
    "Snip",
    "Taylor",
    "Wanda",
    "WoodFisher",
    "check_model",
    "choose",
    "make_masks",
    "prune",
    "register_allocation",
    "register_criterion",
    "select",
    "uniform",
]
