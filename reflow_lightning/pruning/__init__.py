"""Which weights go. Plain PyTorch, for any training loop."""

from reflow_lightning.pruning.allocation import Allocation, DataAllocation, register_allocation
from reflow_lightning.pruning.budget import EntropyBudget, EntropyShares
from reflow_lightning.pruning.checks import check_arguments, check_model
from reflow_lightning.pruning.choose import Choice, choose
from reflow_lightning.pruning.columns import ColumnSum, KeptColumns
from reflow_lightning.pruning.criteria.fisher import Fisher
from reflow_lightning.pruning.criteria.per_output import PerOutput
from reflow_lightning.pruning.criteria.protocols import Criterion, DataCriterion, Estimated, Magnitude, Random
from reflow_lightning.pruning.criteria.snip import Snip
from reflow_lightning.pruning.criteria.taylor import Taylor
from reflow_lightning.pruning.criteria.wanda import Wanda
from reflow_lightning.pruning.criteria.woodfisher import WoodFisher
from reflow_lightning.pruning.layerwise import uniform
from reflow_lightning.pruning.masks import Masks
from reflow_lightning.pruning.prune import make_masks, prune
from reflow_lightning.pruning.scores import Scores
from reflow_lightning.pruning.select import select

__all__ = [
    "Allocation",
    "Choice",
    "ColumnSum",
    "Criterion",
    "DataAllocation",
    "DataCriterion",
    "EntropyBudget",
    "EntropyShares",
    "Estimated",
    "Fisher",
    "KeptColumns",
    "Magnitude",
    "Masks",
    "PerOutput",
    "Random",
    "Scores",
    "Snip",
    "Taylor",
    "Wanda",
    "WoodFisher",
    "check_arguments",
    "check_model",
    "choose",
    "make_masks",
    "prune",
    "register_allocation",
    "select",
    "uniform",
]
