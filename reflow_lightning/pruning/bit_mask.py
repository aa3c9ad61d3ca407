"""Masks as bits, an eighth of the memory of bools."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from reflow_lightning.running.bits import pack, unpack
from reflow_lightning.running.inference import outside_inference
from reflow_lightning.running.processes import summed
from reflow_lightning.running.shards import Placement, local, part_of


@dataclass(frozen=True)
class BitMask:
    """The mask of one tensor, as far as this process holds the tensor, in an eighth of the memory of bools.

    Attributes:
        bits: uint8, eight weights a byte, on the device of the mask.
        here: Shape of what this process holds.
        placement: How the mask is spread over processes; ``None`` where it is whole here.

    Example:
        >>> mask = BitMask.of(torch.tensor([[True, False]]))
        >>> mask.bits.tolist(), mask.bools()
        ([128], tensor([[ True, False]]))
    """

    bits: Tensor
    here: torch.Size
    placement: Placement | None

    @classmethod
    def of(cls, mask: Tensor) -> BitMask:
        """Take over a bool tensor, or a DTensor of bools; what is done to it later changes nothing here."""
        values = local(mask)
        return cls(pack(values), values.shape, Placement.of(mask))

    @property
    def shape(self) -> torch.Size:
        """Shape of the whole mask."""
        return self.here if self.placement is None else self.placement.shape

    @outside_inference()
    def bools(self) -> Tensor:
        """The mask as a new tensor of a byte a weight, in the usual order of memory."""
        values = unpack(self.bits, self.here.numel()).view(self.here)
        return values if self.placement is None else self.placement.around(values)

    def equals(self, other: BitMask) -> bool:
        """Whether another prunes the same weights, wherever it lies; of the part that is held here."""
        return self.here == other.here and torch.equal(self.bits.cpu(), other.bits.cpu())


class BitMasks(Mapping[str, Tensor]):
    """A mapping of name to bool tensor that holds a bit for each element.

    The tensor that it gives for a name is made anew each time; to change it changes no mask.

    Args:
        masks: Bool tensors by name, or pairs of name and tensor; a generator of pairs need hold one tensor at a time.

    Raises:
        ValueError: If one is no bool tensor.

    Example:
        >>> masks = BitMasks({"weight": torch.ones(3, 8, dtype=torch.bool)})
        >>> masks.shapes, masks.nbytes
        ({'weight': torch.Size([3, 8])}, 3)
    """

    @outside_inference()
    def __init__(self, masks: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]) -> None:
        self._masks: dict[str, BitMask] = {}
        here: dict[str, tuple[int, dist.ProcessGroup | None]] = {}
        for name, mask in _pairs(masks):
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
                kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
                raise ValueError(f"mask '{name}' is {kind}, not a bool tensor")
            here[name] = _kept_here(name, mask)
            self._masks[name] = BitMask.of(mask)
            del mask  # before the next one is made
        self._kept = dict(zip(here, _summed(list(here.values())), strict=True))

    def __getitem__(self, name: str) -> Tensor:
        return self._masks[name].bools()

    def __contains__(self, name: object) -> bool:
        return name in self._masks

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    def __eq__(self, other: object) -> bool:
        """Whether both prune the same weights; of masks that are spread over processes, the part held here."""
        if not isinstance(other, BitMasks) or self.keys() != other.keys():
            return False
        return all(mask.equals(other._masks[name]) for name, mask in self._masks.items())

    __hash__ = None  # type: ignore[assignment]  # as every mapping has it

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """The shape of each mask by parameter name."""
        return {name: mask.shape for name, mask in self._masks.items()}

    @property
    def are_spread(self) -> bool:
        """Whether any mask is spread over processes."""
        return any(mask.placement is not None for mask in self._masks.values())

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the masks take in this process."""
        return sum(mask.bits.nbytes for mask in self._masks.values())


def _pairs(masks: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]) -> Iterable[tuple[str, Tensor]]:
    given: Any = masks  # torch's ParameterDict has items, and is no Mapping
    pairs: Iterable[tuple[str, Tensor]] = given.items() if hasattr(given, "items") else given
    return pairs


def _kept_here(name: str, mask: Tensor) -> tuple[int, dist.ProcessGroup | None]:
    part = part_of(name, mask)
    return int(part.values.count_nonzero()), part.group


def _summed(counts: Sequence[tuple[int, dist.ProcessGroup | None]]) -> list[int]:
    """The counts. A count that is given with a group of processes is summed over that group."""
    totals = torch.tensor([count for count, _ in counts], dtype=torch.int64, device="cpu")
    for group in dict.fromkeys(group for _, group in counts if group is not None):  # one order on all ranks
        indices = [i for i, (_, of) in enumerate(counts) if of is group]
        totals[indices] = summed(totals[indices], group)
    found: list[int] = totals.tolist()
    return found
