"""Remove the channels that nobody reads, or that are constant, and fold what they contribute into the next bias."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from reflow_lightning.depth.bounds import Bounds, uniform
from reflow_lightning.depth.channels import Channels, is_numbers
from reflow_lightning.depth.groups import distinct
from reflow_lightning.depth.steps import Steps


@dataclass
class Read:
    """How a convolution or linear layer reads its input channels.

    Attributes:
        node: The step.
        numbers: Number of each input channel.
        values: Its value, where it is constant; else NaN.
        folds: Whether that value times the weights is the same at all positions, so that a bias can take its place: at
            the border of a padded convolution it is not, unless the value is zero.
    """

    node: fx.Node
    numbers: Tensor
    values: Tensor
    folds: Tensor


@dataclass
class Removal:
    """Which channels go.

    Attributes:
        numbers: Their numbers.
        carriers: By step, the input channel that carries what each removed one contributed, where no bias can.
        reads: All reads, by step.
    """

    numbers: set[int] = field(default_factory=set)
    carriers: dict[fx.Node, dict[int, int]] = field(default_factory=dict)
    reads: dict[fx.Node, Read] = field(default_factory=dict)

    def keeps(self, numbers: Tensor) -> Tensor:
        """Which of these channels stay."""
        gone = torch.tensor(sorted(self.numbers), dtype=torch.int64)
        return ~torch.isin(numbers, gone)


def find_reads(steps: Steps, channels: Channels, bounds: Mapping[fx.Node, Any]) -> dict[fx.Node, Read]:
    """All convolutions without groups and linear layers whose input has channels."""
    found = {}
    for node in steps.traced.graph.nodes:
        name = steps.name(node)
        if name not in ("conv", "linear"):
            continue
        module, given = steps.module(node), node.args[0]
        if getattr(module, "groups", 1) > 1:
            continue
        numbers = channels.groups.find_all(channels.labels[given])
        dim = 1 if name == "conv" else numbers.ndim - 1
        rows = numbers.movedim(dim, 0).reshape(numbers.shape[dim], -1)
        if not bool((rows == rows[:, :1]).all()):
            continue
        known = isinstance(bounds[given], Bounds)
        values = uniform(bounds[given], dim) if known else torch.full((len(rows),), torch.nan, dtype=torch.float64)
        anywhere = torch.full_like(values, fill_value=not _pads_zeros(module), dtype=torch.bool)
        found[node] = Read(node, rows[:, 0], values, ~values.isnan() & (anywhere | (values == 0)))
    return found


def _pads_zeros(module: Any) -> bool:
    if isinstance(module, nn.Linear) or module.padding_mode != "zeros":
        return False
    padding = module.padding
    return padding != "valid" if isinstance(padding, str) else any(padding)


def find_removal(steps: Steps, channels: Channels, bounds: Mapping[fx.Node, Any]) -> Removal:
    """The channels that can go without a change of the network's output."""
    removal = Removal(reads=find_reads(steps, channels, bounds))
    axes = {node: axis.numbers for node in steps.traced.graph.nodes if (axis := channels.axis(node)) is not None}
    everything = [
        set(distinct(channels.groups.find_all(x)).tolist()) for x in channels.labels.values() if is_numbers(x)
    ]
    pinned = {channels.groups.find(number) for number in channels.groups.pins}
    numbers = {int(n) for found in axes.values() for n in found} - pinned
    reading = {node: _reading(steps.module(node)) for node in removal.reads}
    while True:
        before = len(removal.numbers)
        needed = _needed(reading, axes, removal)
        removal.numbers = _leaving_one(numbers - needed.keys(), everything)
        if len(removal.numbers) == before:
            break
    _carry(removal, numbers, needed, everything)
    return removal


def _reading(module: Any) -> Tensor:
    """Which output channel reads which input channel; of shape (outputs, inputs)."""
    weight: Tensor = module.weight
    return (weight != 0).flatten(2).any(2).cpu() if weight.ndim > 2 else (weight != 0).cpu()


def _needed(
    reading: Mapping[fx.Node, Tensor], axes: Mapping[fx.Node, Tensor], removal: Removal
) -> dict[int, list[tuple[fx.Node, int]]]:
    """The places where a channel is read and no bias can take its place, by number."""
    needed: dict[int, list[tuple[fx.Node, int]]] = {}
    for node, read in removal.reads.items():
        rows = reading[node][removal.keeps(axes[node])] if node in axes else reading[node]
        for place in (rows.any(0) & ~read.folds).nonzero().flatten().tolist():
            needed.setdefault(int(read.numbers[place]), []).append((node, place))
    return needed


def _leaving_one(numbers: set[int], everything: Iterable[set[int]]) -> set[int]:
    """Without those that would leave an activation with no channel at all."""
    for here in everything:
        if here and here <= numbers:
            numbers = numbers - {min(here)}
    return numbers


def _carry(
    removal: Removal,
    numbers: set[int],
    needed: Mapping[int, list[tuple[fx.Node, int]]],
    everything: Iterable[set[int]],
) -> None:
    """Of the constants that one padded convolution reads, let one stay and carry the others: all vanish at the border.

    ``sum_i w_i c_i`` is ``w c_k`` with ``w = sum_i w_i c_i / c_k``, with and without padding.
    """
    by_reader: dict[fx.Node, list[tuple[int, int]]] = {}
    for number, places in needed.items():
        constant = all(not bool(removal.reads[node].values[place].isnan()) for node, place in places)
        if len(places) == 1 and constant:
            node, place = places[0]
            by_reader.setdefault(node, []).append((number, place))
    for node, found in by_reader.items():
        values = removal.reads[node].values
        _, carrier = max(found, key=lambda pair: abs(float(values[pair[1]])))
        for number, place in found:
            would_empty = any(here <= removal.numbers | {number} for here in everything)
            if number in numbers and place != carrier and not would_empty:
                removal.numbers.add(number)
                removal.carriers.setdefault(node, {})[place] = carrier
