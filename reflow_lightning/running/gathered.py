"""Tensors of all processes, in few exchanges: each takes about a millisecond, however little it moves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor

from reflow_lightning.running.processes import all_gathered, device_of_group, in_step
from reflow_lightning.running.world import world_size

_PARCEL = 1 << 24
"""So many bytes of a process are exchanged at once, or a single tensor that is larger."""


def gather_tensors(values: Sequence[Tensor]) -> list[list[Tensor]]:
    """For each of several tensors those that all processes passed in its place, in the order of the ranks.

    Args:
        values: Tensors of at least one dimension, as many on each process. Those in one place may differ between
            processes in the number of rows, and in nothing else.

    Returns:
        The tensors by place and rank, on the device of the process's own.

    Raises:
        ValueError: If tensors in one place have other columns, on every process.

    Example:
        >>> gather_tensors([torch.ones(2), torch.zeros(1)])
        [[tensor([1., 1.])], [tensor([0.])]]
    """
    if world_size() == 1 or not values:
        return [[tensor] for tensor in values]
    with in_step():
        shapes = _shapes(values)
        found: list[list[Tensor]] = [[] for _ in values]
        for places in _parcels(values, [max(shape[0] for shape in ranks) for ranks in shapes]):
            _exchange(values, shapes, places, found)
    return found


def _shapes(values: Sequence[Tensor]) -> list[list[tuple[int, ...]]]:
    """The shapes by place and rank."""
    own = torch.tensor([size for tensor in values for size in tensor.shape], device=device_of_group(None))
    ranks = [iter(sizes.tolist()) for sizes in all_gathered(own)]
    shapes = [[tuple(next(sizes) for _ in tensor.shape) for sizes in ranks] for tensor in values]
    for of_ranks in shapes:
        if any(shape[1:] != of_ranks[0][1:] for shape in of_ranks):
            raise ValueError(
                f"the tensors of the processes have the shapes {of_ranks}: pass the same columns on all of them"
            )
    return shapes


def _parcels(values: Sequence[Tensor], rows: Sequence[int]) -> Iterator[list[int]]:
    """Places whose tensors have one type and are exchanged at once, from the number of rows that all make room for."""
    by_type = sorted(range(len(values)), key=lambda place: str(values[place].dtype))
    for _, places in groupby(by_type, key=lambda place: values[place].dtype):
        parcel: list[int] = []
        held = 0
        for place in places:
            tensor = values[place]
            size = rows[place] * math.prod(tensor.shape[1:]) * tensor.element_size()
            if parcel and held + size > _PARCEL:
                yield parcel
                parcel, held = [], 0
            parcel.append(place)
            held += size
        yield parcel


def _exchange(
    values: Sequence[Tensor],
    shapes: Sequence[Sequence[tuple[int, ...]]],
    places: Sequence[int],
    found: list[list[Tensor]],
) -> None:
    """Add the tensors of all processes at some places, which travel as one, to what was found."""
    sizes = [max(map(math.prod, shapes[place])) for place in places]
    buffer = torch.zeros(sum(sizes), dtype=values[places[0]].dtype, device=device_of_group(None))
    for part, place in zip(torch.split(buffer, sizes), places, strict=True):
        part[: values[place].numel()] = values[place].detach().flatten().to(buffer.device)
    for rank, whole in enumerate(all_gathered(buffer)):
        for part, place in zip(torch.split(whole, sizes), places, strict=True):
            shape = shapes[place][rank]
            found[place].append(part[: math.prod(shape)].view(shape).to(values[place].device))
