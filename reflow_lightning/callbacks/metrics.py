"""Any statistic of the signal as a metric of torchmetrics, for `self.log` and `MetricCollection`."""

from __future__ import annotations

from copy import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from reflow_lightning.signal.statistic import Statistic


def as_metric(statistic: Statistic[Any], **options: Any) -> Metric:
    """Wrap a statistic, so that torchmetrics and Lightning can log, reset, collect and synchronise it.

    Args:
        statistic: One of `reflow_lightning.signal` or of your own. The metric begins without data and never changes it.
        options: Those of every `torchmetrics.Metric`, such as ``sync_on_compute=False``.

    Returns:
        A metric whose ``update`` takes what the statistic's takes.

    Raises:
        TypeError: If it is no `Statistic`.

    Example:
        >>> from reflow_lightning.signal import DeadChannels
        >>> metric = as_metric(DeadChannels(channels=2))
        >>> metric(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
        tensor(0.5000, dtype=torch.float64)
    """
    if not isinstance(statistic, Statistic):
        raise TypeError(f"statistic={statistic!r} must be a Statistic, such as DeadChannels(channels=8)")
    return _StatisticMetric(statistic, **options)


class _StatisticMetric(Metric):
    """Holds the tensors of a statistic as torchmetrics wants them, and lends them to it for each call."""

    full_state_update = False

    def __init__(self, statistic: Statistic[Any], **options: Any) -> None:
        super().__init__(**options)
        self._statistic = copy(statistic)
        self._statistic.reset()
        for name, merge in statistic.merges.items():
            grows = merge is torch.cat
            empty = [] if grows else getattr(self._statistic, name)
            self.add_state(name, empty, dist_reduce_fx="cat" if grows else partial(_merged, type(statistic), name))
        self.reset()

    @property
    def higher_is_better(self) -> bool | None:  # type: ignore[override]  # torchmetrics has an attribute here
        """What the statistic says."""
        return self._statistic.higher_is_better

    def reset(self) -> None:
        """Begin anew."""
        super().reset()
        for name, merge in self._statistic.merges.items():
            if merge is torch.cat:  # processes exchange no empty lists, but lists of a tensor without rows
                setattr(self, name, [getattr(self._statistic, name).to(self.device)])

    def update(self, *part: Any, **more: Any) -> None:
        """Take in a part of the data, as the statistic does."""
        statistic = self._filled()
        statistic.update(*part, **more)
        self._take(statistic)

    def forward(self, *part: Any, **more: Any) -> Any:
        """Take in a part of the data, and return its value alone."""
        value = super().forward(*part, **more)
        statistic = self._filled()  # to which torchmetrics has put the lists of the part
        statistic.work_off()
        self._take(statistic)
        return value

    def _take(self, statistic: Statistic[Any]) -> None:
        for name in statistic.merges:
            tensor = getattr(statistic, name)
            setattr(self, name, [tensor] if isinstance(getattr(self, name), list) else tensor)

    def compute(self) -> Any:
        """The value of the statistic."""
        return self._filled().value()

    def _filled(self) -> Statistic[Any]:
        statistic = copy(self._statistic)
        for name in statistic.merges:
            found: Tensor | list[Tensor] = getattr(self, name)
            setattr(statistic, name, found if isinstance(found, Tensor) else torch.cat(found))
        return statistic


def _merged(kind: type[Statistic[Any]], name: str, parts: Tensor) -> Tensor:
    return kind.merges[name](list(parts.unbind()))
