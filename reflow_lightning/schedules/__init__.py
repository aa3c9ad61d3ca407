"""When to prune, and how much of the final sparsity by then. Plain Python: progress in, decision out."""

from reflow_lightning.schedules.gradual import Gradual
from reflow_lightning.schedules.iterative import Iterative
from reflow_lightning.schedules.one_shot import OneShot
from reflow_lightning.schedules.progress import Length, Progress, Schedule
from reflow_lightning.schedules.resolve import resolve_schedule

__all__ = ["Gradual", "Iterative", "Length", "OneShot", "Progress", "Schedule", "resolve_schedule"]
