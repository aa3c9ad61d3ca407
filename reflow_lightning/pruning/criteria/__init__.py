"""How much each weight matters: one file a criterion, which registers itself by name."""

from reflow_lightning.pruning.criteria.column_sum import ColumnSum
from reflow_lightning.pruning.criteria.estimated import Estimated
from reflow_lightning.pruning.criteria.fisher import Fisher
from reflow_lightning.pruning.criteria.magnitude import Magnitude
from reflow_lightning.pruning.criteria.per_output import PerOutput
from reflow_lightning.pruning.criteria.protocols import (
    AnyCriterion,
    Compensating,
    Criterion,
    DataCriterion,
    StreamedCriterion,
)
from reflow_lightning.pruning.criteria.random import Random
from reflow_lightning.pruning.criteria.registry import register_criterion
from reflow_lightning.pruning.criteria.snip import Snip
from reflow_lightning.pruning.criteria.taylor import Taylor
from reflow_lightning.pruning.criteria.wanda import Wanda
from reflow_lightning.pruning.criteria.woodfisher import WoodFisher

__all__ = [
    "AnyCriterion",
    "ColumnSum",
    "Compensating",
    "Criterion",
    "DataCriterion",
    "Estimated",
    "Fisher",
    "Magnitude",
    "PerOutput",
    "Random",
    "Snip",
    "StreamedCriterion",
    "Taylor",
    "Wanda",
    "WoodFisher",
    "register_criterion",
]
