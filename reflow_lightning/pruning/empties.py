"""Layers in which a pruning leaves next to nothing, and what a floor would leave there instead."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from reflow_lightning.pruning.allocations.lamp import lamp
from reflow_lightning.pruning.ranking import Cut
from reflow_lightning.pruning.scores import Scores
from reflow_lightning.running.names import few
from reflow_lightning.running.processes import warn
from reflow_lightning.running.saying import unsaid

_MEAN = 0.1
"""Of the share that all layers keep together: a layer below is nearly empty, if its weights are also few."""

_FLOORS = (0.02, 0.01, 0.005, 0.002, 0.001, 0.0005, 0.0002, 0.0001)
"""What may be named as ``min_kept``: the highest that takes little of the other layers."""

_TAKEN = 0.25
"""So much of all weights that stay is little."""

_SORTED = 1 << 22
"""Of at most so many weights the shares of `lamp` are tried too, for which it sorts them."""


def nearly_empty(kept: Mapping[str, int], shapes: Mapping[str, Sequence[int]]) -> list[str]:
    """The layers that keep so little that hardly any signal passes.

    Such a layer keeps less than a tenth of the share that all keep together, and less than ``n ln n`` weights, where n
    is the number of its outputs, or of its inputs if they are fewer: so many that fall at random just reach all n.

    Args:
        kept: Number of weights that stay, by name.
        shapes: Shape of each weight.

    Example:
        >>> shapes = {"a": (64, 784), "b": (64, 64), "c": (10, 64)}
        >>> nearly_empty({"a": 200, "b": 3000, "c": 500}, shapes), nearly_empty({"a": 3000, "b": 300, "c": 50}, shapes)
        (['a'], [])
    """
    sizes = {name: math.prod(shapes[name]) for name in kept}
    mean = sum(kept.values()) / max(1, sum(sizes.values()))
    return [
        name
        for name, count in kept.items()
        if sizes[name] and (not count or (count < _MEAN * mean * sizes[name] and count < _enough(shapes[name])))
    ]


def _enough(shape: Sequence[int]) -> float:
    narrow = min(shape[0], math.prod(shape[1:]))
    return narrow * max(1.0, math.log(narrow))


def warn_of_empties(
    scores: Mapping[str, Scores],
    cuts: Sequence[Cut],
    sparsity: float,
    floors_of: Callable[[float], Mapping[str, int]],
    allocate: Callable[[Mapping[str, int]], Sequence[Cut]],
) -> None:
    """Name the layers in which next to nothing is left, each once in a training, with remedies that were tried.

    Args:
        scores: Scores by name.
        cuts: How they are cut, in the same order.
        sparsity: For the message.
        floors_of: The least that each layer keeps with a ``min_kept``; a ValueError if that is too much.
        allocate: Cuts the scores under floors.
    """
    shapes = {name: s.shape for name, s in scores.items()}
    kept = {name: cut.kept for name, cut in zip(scores, cuts, strict=True)}
    found = nearly_empty(kept, shapes)
    named = [name for name in found if unsaid([f"next to nothing is left of {name}"])]
    if not named:
        return
    empty = few((name for name in named if not kept[name]), what="layers")
    thin = few((f"{kept[n]} of {shapes[n].numel()} weights in {n}" for n in named if kept[n]), what="layers like that")
    left = [part for part in (f"no weight in {empty}" if empty else "", thin) if part]
    effect = "hardly any signal passes there, except through a shortcut"
    asked = f"{sparsity:.4g}" if sparsity < 0.9999 else sparsity
    text = f"sparsity={asked} leaves {', and only '.join(left)}: {effect}"
    remedies: dict[str, Mapping[str, int]] = {}
    if (floor := _floor(scores, kept, found, floors_of, allocate)) is not None:
        remedies[f"min_kept={floor[0]:g}"] = floor[1]
    if sum(s.size for s in scores.values()) <= _SORTED and all(s.whole.group is None for s in scores.values()):
        remedies["allocation='lamp'"] = lamp(scores, sum(kept.values()), floors_of(0.0))
    counts = {how: min(after[name] for name in named) for how, after in remedies.items()}
    where = "there" if len(named) == 1 else "or more in each"
    told = ", ".join(f"{how} would leave {count} {where}" for how, count in counts.items())
    warn(f"{text}; {told or 'a lower sparsity leaves more'}")


def _floor(
    scores: Mapping[str, Scores],
    kept: Mapping[str, int],
    found: Sequence[str],
    floors_of: Callable[[float], Mapping[str, int]],
    allocate: Callable[[Mapping[str, int]], Sequence[Cut]],
) -> tuple[float, dict[str, int]] | None:
    """The highest floor that takes little of the others, else the least one, and what each layer keeps with it."""
    total, keep = sum(s.size for s in scores.values()), sum(kept.values())
    least = math.ceil(1e6 / total) / 1e6  # one weight in each layer
    possible: list[tuple[float, Mapping[str, int], int]] = []
    for floor in (*(floor for floor in _FLOORS if floor > least), least):
        with suppress(ValueError):
            floors = floors_of(floor)
            possible.append((floor, floors, sum(max(0, count - kept[name]) for name, count in floors.items())))
    for floor, floors, taken in [row for row in possible if row[2] <= _TAKEN * keep] or possible[-1:]:
        with suppress(ValueError):  # of an allocation that does not heed floors
            after = {name: cut.kept for name, cut in zip(scores, allocate(floors), strict=True)}
            if taken and all(after[name] > kept[name] for name in found):
                return floor, after
    return None
