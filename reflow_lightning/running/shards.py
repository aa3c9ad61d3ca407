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
    """What this process holds of a tensor, to be read; all of it, gathered, where it is split in several ways.

    Where tensors are spread over processes, all must call this.

    Args:
        name: Its name, for messages.
        tensor: A plain tensor, or a DTensor. One that is sharded once, along its first dimension, as `fully_shard`
            does, stays where it is; any other, as of tensor parallelism, takes the memory of the whole.

    Raises:
        ValueError: If it waits for a sum over processes.

    Example:
        >>> part_of("weight", torch.ones(2, 3)).start
        0
    """
    tensor = tensor.detach()
    if not is_sharded(tensor):
        return Part(tensor, tensor.shape)
    dims = _sharded_dims(name, tensor)
    if not dims:
        return Part(local(tensor), tensor.shape)
    if not _by_rows(tensor, dims):
        return Part(_gathered(tensor), tensor.shape)
    [dim] = dims
    mesh: Any = tensor.device_mesh  # type: ignore[attr-defined]
    first, _ = rows(tensor.shape[0], mesh.size(dim), mesh.get_local_rank(dim))
    return Part(local(tensor), tensor.shape, first * tensor.shape[1:].numel(), mesh.get_group(dim))


def check_placed(name: str, tensor: Any) -> None:
    """Check that each value of a tensor is held by some process.

    Raises:
        ValueError: If it waits for a sum over processes.
    """
    if not is_sharded(tensor):
        return
    from torch.distributed.tensor import Partial

    if any(isinstance(placement, Partial) for placement in tensor.placements):
        raise ValueError(
            f"parameter '{name}' is placed as {tensor.placements}, so its values are sums that are still to be made: "
            "leave it out with exclude, or redistribute it to Replicate() or Shard(...)"
        )


def _sharded_dims(name: str, tensor: Any) -> list[int]:
    """The dimensions of the mesh along which a DTensor is split."""
    from torch.distributed.tensor import Replicate

    check_placed(name, tensor)
    placed = enumerate(tensor.placements)
    return [dim for dim, by in placed if not isinstance(by, Replicate) and tensor.device_mesh.size(dim) > 1]


def _by_rows(tensor: Any, dims: list[int]) -> bool:
    """Whether each process holds some rows, one after the other."""
    from torch.distributed.tensor import Shard

    return len(dims) == 1 and type(tensor.placements[dims[0]]) is Shard and tensor.placements[dims[0]].dim == 0


def _gathered(tensor: Any) -> Tensor:
    with in_step():
        whole: Tensor = tensor.full_tensor()
    return whole


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
    with in_step():
        return _joined(part, part.group)


def sent_whole(tensor: Tensor) -> Tensor:
    """A tensor that is spread over processes, whole, with memory of its own; they must be in step, and all call this.

    Example:
        >>> sent_whole(torch.ones(2))
        tensor([1., 1.])
    """
    spread: Any = tensor
    if is_sharded(tensor) and (dims := _sharded_dims("parameter", tensor)) and not _by_rows(tensor, dims):
        whole: Tensor = spread.full_tensor()
        return whole
    part = part_of("parameter", tensor)
    return part.values.clone() if part.group is None else _joined(part, part.group)


def _joined(part: Part, group: dist.ProcessGroup) -> Tensor:
    """The rows of all processes of a group, which all send as many."""
    count = dist.get_world_size(group)
    most = -(-part.shape[0] // count)
    here = part.values.to(device_of_group(group)).contiguous()
    if len(here) < most:
        here = torch.cat([here, here.new_zeros((most - len(here), *part.shape[1:]))])
    found = here.new_empty((count * most, *part.shape[1:]))
    dist.all_gather_into_tensor(found, here, group=group)
    return found[: part.shape[0]].to(part.values.device)


def part_like(part: Part, whole: Tensor) -> Tensor:
    """The same part of another tensor, which may be whole here or spread in the same way.

    Example:
        >>> part_like(part_of("weight", torch.ones(2)), torch.tensor([True, False]))
        tensor([ True, False])
    """
    if is_sharded(whole):
        return part_of("mask", whole).values.to(part.values.device)
    if part.group is None:
        return whole.to(part.values.device)
    first = part.start // max(1, part.shape[1:].numel())
    return whole[first : first + part.values.shape[0]].to(part.values.device)


@dataclass(frozen=True)
class Placement:
    """How a tensor is spread over processes, without its values.

    Attributes:
        mesh: The processes.
        placements: What each dimension of the mesh does with the tensor.
        shape: Shape of the whole tensor.
    """

    mesh: Any
    placements: tuple[Any, ...]
    shape: torch.Size

    @classmethod
    def of(cls, tensor: Tensor) -> Placement | None:
        """The placement of a DTensor; ``None`` for a tensor that is whole here.

        Example:
            >>> Placement.of(torch.ones(2)) is None
            True
        """
        given: Any = tensor
        return cls(given.device_mesh, given.placements, given.shape) if is_sharded(tensor) else None

    def around(self, values: Tensor) -> Tensor:
        """A DTensor. This process holds the given values, in the usual order of memory; nothing is sent."""
        from torch.distributed.tensor import DTensor

        stride = torch.empty(self.shape, device="meta").stride()
        how: dict[str, Any] = {"run_check": False, "shape": self.shape, "stride": stride}
        return DTensor.from_local(values, self.mesh, self.placements, **how)

    def __deepcopy__(self, memo: object) -> Placement:
        """The same: it never changes, and processes can't be copied."""
        return self


def spread_like(tensor: Tensor, values: Tensor) -> Tensor:
    """A new tensor that is spread like the given one.

    Args:
        tensor: The given one.
        values: What `part_of` would give of the new one.
    """
    placement = Placement.of(tensor)
    if placement is None:
        return values
    dims = _sharded_dims("mask", tensor)
    if not dims or _by_rows(tensor, dims):
        return placement.around(values)
    from torch.distributed.tensor import DTensor, Replicate

    mesh = placement.mesh  # each process takes its piece of the whole; nothing is sent
    whole = DTensor.from_local(values, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return whole.redistribute(mesh, placement.placements)


def whole_like(tensor: Tensor, whole: Tensor) -> Tensor:
    """A whole tensor spread like the given one and on its device, or one that is spread like it already.

    Example:
        >>> whole_like(torch.ones(2), torch.tensor([True, False]))
        tensor([ True, False])
    """
    device = local(tensor).device
    if not is_sharded(tensor) or is_sharded(whole):
        return whole.to(device)
    dims = _sharded_dims("mask", tensor)
    if dims and not _by_rows(tensor, dims):
        return spread_like(tensor, whole.to(device))
    return spread_like(tensor, part_like(part_of("mask", tensor), whole))
