"""When to prune, and to what sparsity. Plain Python: progress in, decision out."""

from reflow_lightning.schedules.gradual import Gradual
from reflow_lightning.schedules.iterative import Iterative
from reflow_lightning.schedules.one_shot import OneShot
from reflow_lightning.schedules.progress import Length, Progress
from reflow_lightning.schedules.schedule import RoundRule, Schedule, check_schedule, rounds_of

__all__ = [
    "Gradual",
    "Iterative",
    "Length",
    "OneShot",
    "Progress",
    "RoundRule",
    "Schedule",
    "check_schedule",
    "rounds_of",
]
