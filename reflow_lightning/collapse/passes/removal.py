"""Remove the channels that nobody reads, or that are constant, and fold what they contribute into the next bias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from reflow_lightning.collapse.facts.groups import Channels, distinct, is_numbers, rows, thin
from reflow_lightning.collapse.facts.intervals import Bounds, uniform
from reflow_lightning.collapse.facts.operator import operator_of
from reflow_lightning.collapse.facts.removal import Read, Removal
from reflow_lightning.collapse.graph.steps import Steps
from reflow_lightning.collapse.operators.affine import Affine, affine_of


def find_reads(steps: Steps, channels: Channels, bounds: Mapping[fx.Node, Any]) -> dict[fx.Node, Read]:
    """All convolutions without groups and linear layers whose input has channels."""
    found = {}
    for node in steps:
        operator = operator_of(steps, node)
        if not isinstance(operator, Affine) or operator.groups(module := steps.module(node)) > 1:
            continue
        given = node.args[0]
        numbers = channels.groups.find_all(channels.labels[given])
        dim = operator.channel_dim(numbers.ndim)
        by_channel = rows(numbers, dim)
        if not bool((by_channel == by_channel[:, :1]).all()):
            continue
        known = isinstance(bounds[given], Bounds)
        values = (
            uniform(bounds[given], dim) if known else torch.full((len(by_channel),), torch.nan, dtype=torch.float64)
        )
        anywhere = torch.full_like(values, fill_value=not operator.is_uneven(module), dtype=torch.bool)
        found[node] = Read(node, by_channel[:, 0], values, ~values.isnan() & (anywhere | (values == 0)))
    return found


def find_removal(steps: Steps, channels: Channels, bounds: Mapping[fx.Node, Any], only: str | None = None) -> Removal:
    """The channels that can go without a change of the network's output.

    Args:
        steps: The graph.
        channels: Its channels.
        bounds: Bounds by step.
        only: The layer to whose channels this is limited.
    """
    removal = Removal(reads=find_reads(steps, channels, bounds))
    axes = {node: axis.numbers for node in steps.traced.graph.nodes if (axis := channels.axis(node)) is not None}
    groups = channels.groups
    activations = [
        x for x in map(thin, filter(is_numbers, channels.labels.values())) if not bool(groups.is_pinned(x).any())
    ]
    everything = [set(distinct(groups.find_all(x)).tolist()) for x in activations]
    numbers = {n for found in axes.values() for n in found[~groups.is_pinned(found)].tolist()}
    if only is not None:
        numbers &= {int(n) for node, found in axes.items() if str(node.target) == only for n in found}
    reading = {node: affine_of(module := steps.module(node)).reading(module) for node in removal.reads}
    parts = [(axes[part], axes[node]) for node, (part,) in channels.apart.items() if node in axes and part in axes]
    while True:
        needed = _needed_in_the_end(reading, axes, parts, numbers, removal)
        emptied = {min(here) for here in everything if here and here <= removal.numbers}
        if not emptied:
            break
        numbers -= emptied  # for an activation with no channel at all can't be
    _carry(removal, numbers, needed, everything)
    return removal


_Needed = dict[int, list[tuple[fx.Node, int]]]


def _needed_in_the_end(
    reading: Mapping[fx.Node, Tensor],
    axes: Mapping[fx.Node, Tensor],
    parts: Sequence[tuple[Tensor, Tensor]],
    numbers: set[int],
    removal: Removal,
) -> _Needed:
    """Let all of these channels go that nobody needs once the others are gone; the places where the rest is needed."""
    removal.numbers = set()
    while True:
        needed = _needed(reading, axes, removal)
        for part, whole in parts:  # an operand has no channel that the sum lacks
            for number in whole[removal.keeps(part)].tolist():
                needed.setdefault(number, [])
        gone = numbers - needed.keys()
        if gone == removal.numbers:
            return needed
        removal.numbers = gone


def _needed(reading: Mapping[fx.Node, Tensor], axes: Mapping[fx.Node, Tensor], removal: Removal) -> _Needed:
    """The places where a channel is read and no bias can take its place, by number."""
    needed: _Needed = {}
    for node, read in removal.reads.items():
        left = reading[node][removal.keeps(axes[node])] if node in axes else reading[node]
        for place in (left.any(0) & ~read.folds).nonzero().flatten().tolist():
            needed.setdefault(int(read.numbers[place]), []).append((node, place))
    return needed


def _carry(
    removal: Removal,
    numbers: set[int],
    needed: _Needed,
    everything: Sequence[set[int]],
) -> None:
    """Of the constants that one padded convolution reads, let one stay and carry the others: all vanish at the border.

    ``sum_i w_i c_i`` is ``w c_k`` with ``w = sum_i w_i c_i / c_k``, with and without padding.
    """
    by_reader: dict[fx.Node, list[tuple[int, int]]] = {}
    for number, places in needed.items():
        if len(places) == 1 and not bool(removal.reads[places[0][0]].values[places[0][1]].isnan()):
            node, place = places[0]
            by_reader.setdefault(node, []).append((number, place))
    for node, found in by_reader.items():
        values = removal.reads[node].values
        _, carrier = max(found, key=lambda pair: abs(float(values[pair[1]])))
        for number, place in found:
            would_empty = any(number in here and here <= removal.numbers | {number} for here in everything)
            if number in numbers and place != carrier and not would_empty:
                removal.numbers.add(number)
                removal.carriers.setdefault(node, {})[place] = carrier
