"""The stages of a prune event: dense, pruned, repaired."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from reflow_lightning.running.processes import together, warn
from reflow_lightning.running.sharding import reshard
from reflow_lightning.signal.leaving import NothingToMeasureError
from reflow_lightning.signal.measure import Profile
from reflow_lightning.signal.report import SignalReport


class Stages:
    """Measures the signal at each stage of a prune event, and tells the listeners.

    Args:
        model: The model.
        listeners: Called with the name of the stage and the model.
        profile: Measures the signal. ``None``: it is not measured.

    Example:
        >>> stages = Stages(nn.Linear(2, 2), [lambda stage, model: print(stage)], None)
        >>> stages.reached("dense")
        dense
    """

    def __init__(
        self, model: nn.Module, listeners: Sequence[Callable[[str, nn.Module], None]], profile: Profile | None
    ) -> None:
        self._model, self._listeners, self._profile = model, listeners, profile
        self._can_be_measured = profile is not None

    @property
    def reports(self) -> dict[str, SignalReport]:
        """The signal by stage."""
        return {} if self._profile is None else self._profile.reports

    def reached(self, stage: str) -> None:
        """Measure and tell. Where processes run together, all must call this."""
        if self._profile is not None and self._can_be_measured:
            try:
                self._profile.measure(self._model, stage)
            except NothingToMeasureError as reason:
                self._can_be_measured = False
                warn(
                    f"the signal of the {stage} network can't be measured: {reason}; monitor=False asks for none of it"
                )
        with together(f"a listener to the {stage} network"):
            for listener in self._listeners:
                try:
                    listener(stage, self._model)
                finally:
                    reshard(self._model)  # it may have run the network
