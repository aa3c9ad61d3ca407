"""How many weights each tensor keeps: one file an allocation, which registers itself by name."""

from reflow_lightning.pruning.allocations.entropy import EntropyBudget, EntropyShares
from reflow_lightning.pruning.allocations.erk import erk
from reflow_lightning.pruning.allocations.global_ranking import global_ranking
from reflow_lightning.pruning.allocations.kept_columns import KeptColumns
from reflow_lightning.pruning.allocations.lamp import Lamp, lamp
from reflow_lightning.pruning.allocations.protocols import Allocation, AnyAllocation, DataAllocation
from reflow_lightning.pruning.allocations.registry import register_allocation
from reflow_lightning.pruning.allocations.uniform import uniform

__all__ = [
    "Allocation",
    "AnyAllocation",
    "DataAllocation",
    "EntropyBudget",
    "EntropyShares",
    "KeptColumns",
    "Lamp",
    "erk",
    "global_ranking",
    "lamp",
    "register_allocation",
    "uniform",
]
