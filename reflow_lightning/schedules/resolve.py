"""The schedule of one pruning."""

from __future__ import annotations

from dataclasses import replace

from reflow_lightning.schedules.gradual import Gradual
from reflow_lightning.schedules.iterative import Iterative
from reflow_lightning.schedules.progress import Schedule


def resolve_schedule(schedule: Schedule, sparsity: float, pattern: str | None) -> Schedule:
    """The schedule of a pruning to this sparsity.

    Raises:
        ValueError: If it is no schedule, or the pattern can't be reached with it.

    Example:
        >>> from reflow_lightning.schedules import Progress
        >>> resolve_schedule(Iterative(), 0.5, None).finished(Progress(step=9, epoch=1, fraction=None))
        True
    """
    if not isinstance(schedule, Schedule):
        raise ValueError(f"schedule={schedule!r} must be a schedule: OneShot(...), Gradual(...) or Iterative(...)")
    if pattern is not None and isinstance(schedule, (Gradual, Iterative)):
        raise ValueError(f"pattern={pattern!r} can't be reached gradually: use schedule=OneShot(...)")
    return replace(schedule, final=sparsity) if isinstance(schedule, Iterative) else schedule
