"""Whether calibration data differ from the training data, and what likely made them differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from reflow_lightning.calibration.drift.distance import THRESHOLD, LayerDrift, batches_are_sorted, compare, judged
from reflow_lightning.calibration.drift.observing import Observation
from reflow_lightning.calibration.drift.transforms import LOOK, transform_causes
from reflow_lightning.calibration.drift.trials import Shift, Trials, shifts_in_training
from reflow_lightning.running.processes import gather

_HELPS = 0.6  # a cause is named if undoing it leaves less than this share of the drift
_HELPS_DESPITE = 0.2  # or this, if the labels or the order tell another cause: a class may have a colour of its own
_UNKNOWN = f"likely cause: another augmentation than in training, other data, or only some of their classes{LOOK}"


def examine(trials: Trials, seen: Observation) -> tuple[tuple[LayerDrift, ...], tuple[str, ...]]:
    """The drift of every layer, and sentences on its cause, the best-founded first.

    Args:
        trials: A few of the batches.
        seen: What the model saw of all batches.
    """
    shifts: Mapping[str, Shift] = {}
    rows, data = _look(trials, seen, shifts)
    if _suspicious(judged(rows, explained=True, skewed=bool(data))):
        shifts = gather(shifts_in_training(trials))[0]
        rows, data = _look(trials, seen, shifts)
    suspects = judged(rows, explained=True, skewed=bool(data))
    if not _suspicious(suspects):
        return suspects, too_few(seen, rows)
    if not all(math.isfinite(row.distance) for row in rows):
        return suspects, ("likely cause: values that are NaN, infinite or very large in the batches",)
    found = transform_causes(trials, seen, shifts, _HELPS_DESPITE if data else _HELPS)
    rows = judged(rows, explained=bool(found or data), skewed=bool(data))
    if not _suspicious(rows):
        return rows, too_few(seen, rows)
    return rows, (*found, *data) or (_UNKNOWN,)


def _look(
    trials: Trials, seen: Observation, shifts: Mapping[str, Shift]
) -> tuple[tuple[LayerDrift, ...], tuple[str, ...]]:
    """The rows, and the causes that labels and order tell."""
    rows = gather(compare(trials.model, seen, shifts))[0]
    return rows, (*label_causes(seen), *order_causes(seen, rows))


def _suspicious(rows: Sequence[LayerDrift]) -> bool:
    return any(row.drifted for row in rows) or batches_are_sorted(rows)


def too_few(seen: Observation, rows: Sequence[LayerDrift]) -> tuple[str, ...]:
    """Say so if the sampling noise hides a drift in the first layer."""
    noise = max((row.noise for row in rows[:1]), default=0.0)
    if noise <= THRESHOLD:
        return ()
    samples = _samples(seen)
    wanted = math.ceil(samples * (2 * noise / THRESHOLD) ** 2)
    return (f"too few samples: {samples} can't tell a distance below {2 * noise:.2g}; some {wanted} would do",)


def label_causes(seen: Observation) -> tuple[str, ...]:
    """What the labels of the batches tell."""
    if not seen.labels:
        return ()
    labels = torch.cat(seen.labels)
    kinds, counts = labels.unique(return_counts=True)  # type: ignore[no-untyped-call]
    classes = seen.classes if seen.classes and seen.classes > int(labels.max()) else len(kinds)
    samples, top = len(labels), int(counts.max())
    expected = classes * (1 - math.exp(-samples / classes))
    if len(kinds) == 1 and classes > 1:
        return (f"likely cause: one class only, all {samples} samples have label {int(kinds[0])}",)
    if len(kinds) < 0.6 * expected:
        return (f"likely cause: skewed data, {len(kinds)} of {classes} classes in {samples} samples",)
    share = samples / classes
    if top > 1.5 * share + 5 * math.sqrt(share):
        label = int(kinds[counts.argmax()])
        return (f"likely cause: skewed data, label {label} on {top / samples:.0%} of the samples",)
    return ()


def order_causes(seen: Observation, rows: Sequence[LayerDrift]) -> tuple[str, ...]:
    """What the differences of the batches among themselves tell."""
    if not batches_are_sorted(rows):
        return ()
    worst = max(rows, key=lambda row: row.between)
    return (
        f"likely cause: class-sorted data, {worst.between:.0%} of the variance in layer '{worst.name}' lies between "
        "batches; shuffle them",
    )


def _samples(seen: Observation) -> int:
    return int(max(sum(part[0, 0, 0].item() for part in found) for found in seen.layers.values()))
