"""Parameters that are spread over processes (DTensor): the part that is held here, and its place in the whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from reflow_lightning.running.processes import device_of_group, in_step
from reflow_lightning.running.sharding import is_sharded


@dataclass(frozen=True)
class Part:
    """What this process holds of a tensor.

    Attributes:
        values: The values held here; they share the tensor's memory.
        shape: Shape of the whole tensor.
        start: Position of the first of the values in the whole, flat.
        group: The processes that hold the tensor together; ``None`` where it is whole here.
    """

    values: Tensor
    shape: torch.Size
    start: int = 0
    group: dist.ProcessGroup | None = None


def local(tensor: Tensor) -> Tensor:
    """The values held here; they share the tensor's memory.

    Example:
        >>> local(torch.ones(2))
        tensor([1., 1.])
    """
    given: Any = tensor
    return given.to_local() if is_sharded(tensor) else tensor


def part_of(name: str, tensor: Tensor) -> Part:
    """What this process holds of a tensor.

    Args:
        name: Its name, for messages.
        tensor: A plain tensor, or a DTensor that is sharded along its first dimension, as `fully_shard` does.

    Raises:
        ValueError: If it is sharded in another way.

    Example:
        >>> part_of("weight", torch.ones(2, 3)).start
        0
    """
    tensor = tensor.detach()
    if not is_sharded(tensor):
        return Part(tensor, tensor.shape)
    dim = _sharded_dim(name, tensor)
    if dim is None:
        return Part(local(tensor), tensor.shape)
    mesh: Any = tensor.device_mesh  # type: ignore[attr-defined]
    first, _ = rows(tensor.shape[0], mesh.size(dim), mesh.get_local_rank(dim))
    return Part(local(tensor), tensor.shape, first * tensor.shape[1:].numel(), mesh.get_group(dim))


def _sharded_dim(name: str, tensor: Any) -> int | None:
    from torch.distributed.tensor import Replicate, Shard

    dims = [dim for dim, placement in enumerate(tensor.placements) if not isinstance(placement, Replicate)]
    if not dims:
        return None
    if len(dims) > 1 or type(tensor.placements[dims[0]]) is not Shard or tensor.placements[dims[0]].dim != 0:
        raise ValueError(
            f"parameter '{name}' is sharded as {tensor.placements}: pruning understands tensors that are sharded once, "
            "along their first dimension, as fully_shard does; leave it out with exclude, or drop tensor parallelism"
        )
    return dims[0]


def rows(total: int, parts: int, index: int) -> tuple[int, int]:
    """First row, and the one after the last, of one of several parts: all of equal size but the last ones.

    Example:
        >>> [rows(5, 4, index) for index in range(4)]
        [(0, 2), (2, 4), (4, 5), (5, 5)]
    """
    size = -(-total // parts)
    return min(index * size, total), min((index + 1) * size, total)


def whole_of(part: Part) -> Tensor:
    """The whole tensor, where the part is; the processes that hold it together must all call this.

    Example:
        >>> whole_of(part_of("weight", torch.ones(2)))
        tensor([1., 1.])
    """
    if part.group is None:
        return part.values
    count = dist.get_world_size(part.group)
    here = part.values.new_zeros((-(-part.shape[0] // count), *part.shape[1:]), device=device_of_group(part.group))
    here[: len(part.values)] = part.values
    found = [torch.empty_like(here) for _ in range(count)]
    with in_step():
        dist.all_gather(found, here, group=part.group)
    return torch.cat(found)[: part.shape[0]].to(part.values.device)


def part_like(part: Part, whole: Tensor) -> Tensor:
    """The same part of another tensor, which may be whole here or spread in the same way.

    Example:
        >>> part_like(part_of("weight", torch.ones(2)), torch.tensor([True, False]))
        tensor([ True, False])
    """
    if is_sharded(whole) or part.group is None:
        return local(whole).to(part.values.device)
    first = part.start // max(1, part.shape[1:].numel())
    return whole[first : first + part.values.shape[0]].to(part.values.device)


def spread_like(tensor: Tensor, values: Tensor) -> Tensor:
    """What this process holds of a new tensor, as part of one that is spread like the given one."""
    if not is_sharded(tensor):
        return values
    from torch.distributed.tensor import DTensor

    given: Any = tensor
    return DTensor.from_local(
        values, given.device_mesh, given.placements, run_check=False, shape=given.shape, stride=given.stride()
    )
