"""The states of a network as runs of their own in TensorBoard, so that colours tell them apart in one chart."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from lightning.pytorch.loggers import Logger

from reflow_lightning.running.compat.lightning import is_one
from reflow_lightning.signal.histogram import Histogram
from reflow_lightning.signal.report import SignalReport

WEAKEST = "activations/weakest_layer_log10_variance_ratio"
"""How weak the weakest layer is beside the network before the event: 0 is as strong, -2 a hundredth of the variance."""

_LOWEST = 1e-9
_BEGUN: WeakKeyDictionary[Logger, set[str]] = WeakKeyDictionary()


def log_states(loggers: Iterable[Logger], signal: Mapping[str, SignalReport], layers: Sequence[str], step: int) -> None:
    """Write what a prune event measured into TensorBoard's runs ``dense``, ``pruned`` and ``repaired``.

    Each has a curve of its weakest layer, and histograms of the activations of some layers. What these runs held of
    later steps is from a training that was stopped and resumed from here, and no longer shown.

    Args:
        loggers: Those of a trainer; other kinds are passed over. Rank zero alone must call this.
        signal: Reports by state.
        layers: Names of the layers whose histograms are written.
        step: What the loggers count as its step.
    """
    before = next(iter(signal.values()))
    for logger in loggers:
        for state, report in signal.items() if is_one(logger, "TensorBoardLogger") else ():
            with state_run(logger, state, **_purging(logger, state, step)) as writer:
                if not math.isnan(ratio := weakest_ratio(report, before)):
                    add_level(writer, WEAKEST, math.log10(ratio), step)
                for layer in layers:
                    add_histogram(writer, f"histograms/{layer}", report.histograms[layer], step)


def _purging(logger: Any, state: str, step: int) -> dict[str, int]:
    """Purge later steps at the first event of a logger alone: another `Reflow` may have written to the same step.

    A new run has nothing to purge. TensorBoard reads files of one second in the order of their names, where 10 is below
    9, so that a purge might hit what the same run writes later.
    """
    begun = _BEGUN.setdefault(logger, set())
    is_first = state not in begun
    begun.add(state)
    resumed = is_first and any(Path(logger.log_dir, state).glob("events.out.tfevents.*"))
    return {"purge_step": step} if resumed else {}


@contextmanager
def state_run(logger: Any, state: str, **options: Any) -> Iterator[Any]:
    """A writer into the run of a state, a folder below the run of TensorBoard's logger.

    Args:
        logger: A ``TensorBoardLogger``.
        state: Such as ``"pruned"``.
        options: More for the writer.
    """
    with closing(type(logger.experiment)(log_dir=os.path.join(logger.log_dir, state), **options)) as writer:
        yield writer


def add_level(writer: Any, name: str, value: float, step: int) -> None:
    """Write a number of a state as a short level line.

    TensorBoard leaves the lowest of three single points out of a chart, as an outlier: it would be the pruned state.

    Args:
        writer: TensorBoard's.
        name: Group and name.
        value: The number.
        step: Its step; the line ends one later.
    """
    for place in (step, step + 1):
        writer.add_scalar(name, value, place)


def weakest_ratio(report: SignalReport, before: SignalReport) -> float:
    """The least ratio, over the layers, of the variance to the variance before the event; at least 1e-9.

    Layers that were constant before do not count. It is NaN where a layer has no finite variance.

    Args:
        report: Of the network now.
        before: Of the same layers.

    Example:
        >>> from reflow_lightning.signal import LayerSignal
        >>> now, before = (SignalReport((LayerSignal("fc", 8, 0.0, v, v, 0.0),), batches=1) for v in (0.5, 2.0))
        >>> weakest_ratio(now, before)
        0.25
    """
    then = before.variances()
    ratios = [value / then[name] for name, value in report.variances().items() if then.get(name, 0.0) > 0]
    return max(min(ratios, default=1.0), _LOWEST) if all(map(math.isfinite, ratios)) else math.nan


def add_histogram(writer: Any, name: str, histogram: Histogram, step: int) -> None:
    """Write a histogram whose bins are counted already.

    Args:
        writer: TensorBoard's.
        name: Group and name.
        histogram: What was counted; sums are taken from the middles of the bins.
        step: Its step.
    """
    edges, counts = histogram
    middles = [(low + high) / 2 for low, high in itertools.pairwise(edges)]
    writer.add_histogram_raw(
        name,
        min=edges[0],
        max=edges[-1],
        num=sum(counts),
        sum=sum(count * middle for count, middle in zip(counts, middles, strict=True)),
        sum_squares=sum(count * middle**2 for count, middle in zip(counts, middles, strict=True)),
        bucket_limits=list(edges),
        bucket_counts=[0, *counts],
        global_step=step,
    )
