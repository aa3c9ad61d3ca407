"""Masks: which weights stay. They live beside the model, never in it."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reflow_lightning.pruning.bits import gathered, pack, unpack, zero_where_pruned
from reflow_lightning.pruning.shards import local, part_like, part_of, spread_like
from reflow_lightning.running.files import read_tensors, write_tensors
from reflow_lightning.running.processes import rank, summed, together
from reflow_lightning.running.sharding import reshard


class Masks(Mapping[str, Tensor]):
    """A mapping of parameter name to bool tensor, True where the weight stays.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> masks = Masks({"weight": torch.tensor([[True, False]])})
        >>> masks.apply(model)
        >>> masks.sparsity, int((model.weight == 0).sum())
        (0.5, 1)
    """

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        for name, mask in masks.items():
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
                kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
                raise ValueError(f"mask '{name}' is {kind}, not a bool tensor")
        self._masks = dict(masks)
        self._kept = _count(self._masks)

    def __getitem__(self, name: str) -> Tensor:
        return self._masks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    def __eq__(self, other: object) -> bool:
        """Whether both prune the same weights; of masks that are spread over processes, the part held here."""
        if not isinstance(other, Masks) or self.keys() != other.keys():
            return False
        return all(torch.equal(local(mask).cpu(), local(other[name]).cpu()) for name, mask in self.items())

    __hash__ = None  # type: ignore[assignment]  # as that of every mapping

    def __repr__(self) -> str:
        return f"Masks({len(self)} tensors, {self._total} weights, {self.sparsity:.4f} pruned)"

    @property
    def _total(self) -> int:
        return sum(mask.numel() for mask in self.values())

    @property
    def sparsity(self) -> float:
        """Share of the selected weights that are pruned."""
        return 1 - sum(self._kept.values()) / self._total if self._total else 0.0

    @property
    def sparsities(self) -> dict[str, float]:
        """Share of pruned weights by parameter name."""
        return {n: 1 - self._kept[n] / mask.numel() if mask.numel() else 0.0 for n, mask in self.items()}

    def reaches(self, sparsity: float) -> bool:
        """Whether as many weights are pruned as this sparsity asks for, to the nearest whole number."""
        return self._total - sum(self._kept.values()) >= round(sparsity * self._total)

    def parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """The model's parameters that the masks belong to, in the order of the masks.

        Raises:
            ValueError: If a name is missing in the model, or has another shape there.
        """
        reshard(model)
        named = dict(model.named_parameters(remove_duplicate=False))
        for name, mask in self.items():
            if name not in named:
                raise ValueError(f"mask '{name}' has no parameter in {type(model).__name__}: use the model it is of")
            if named[name].shape != mask.shape:
                raise ValueError(
                    f"mask '{name}' has shape {tuple(mask.shape)}, the model's parameter {tuple(named[name].shape)}: "
                    "use the model it is of"
                )
        return [named[name] for name in self]

    def local(self, model: nn.Module) -> list[tuple[Tensor, Tensor]]:
        """The model's parameters and their masks, as far as this process holds them, on the parameters' devices.

        The parameters' values share the model's memory.

        Raises:
            ValueError: If the masks do not fit the model.
        """
        parts = [part_of(name, p) for name, p in zip(self, self.parameters(model), strict=True)]
        return [(part.values, part_like(part, mask)) for part, mask in zip(parts, self.values(), strict=True)]

    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        """Set the pruned weights of a model to zero, in place, whatever they are.

        Raises:
            ValueError: If the masks do not fit the model, which then is unchanged.
        """
        values, masks = map(list, zip(*self.local(model), strict=True)) if self else ([], [])
        zero_where_pruned(values, masks)

    def to(self, device: torch.device | str) -> Masks:
        """The same masks on another device."""
        return Masks({name: mask.to(device) for name, mask in self.items()})

    def spread_over(self, model: nn.Module) -> Masks:
        """The same masks, each on the device of its parameter and spread over processes as that is."""
        named = zip(self, self.parameters(model), self.local(model), strict=True)
        return Masks({name: spread_like(parameter, mask) for name, parameter, (_, mask) in named})

    def state_dict(self) -> dict[str, Any]:
        """Names, shapes, one bit a weight and a checksum, for `torch.save` and loading with ``weights_only=True``.

        Of masks that are spread over processes it holds the whole; call it on all of them.

        Example:
            >>> state = Masks({"weight": torch.tensor([[True, False]])}).state_dict()
            >>> state["names"], state["shapes"], state["bits"]
            (['weight'], [[1, 2]], tensor([128], dtype=torch.uint8))
        """
        flat = [gathered(mask).flatten() for mask in self.values()]
        bits = pack(torch.cat(flat) if flat else torch.zeros(0, dtype=torch.bool))
        shapes = {name: mask.shape for name, mask in self.items()}
        return {
            "names": list(shapes),
            "shapes": [list(shape) for shape in shapes.values()],
            "bits": bits,
            "checksum": _checksum(shapes, bits),
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Masks:
        """Make masks from what `state_dict` gave, on the CPU.

        Raises:
            ValueError: If it is anything else, or was changed since.
        """
        try:
            shapes = dict(zip(state["names"], map(torch.Size, state["shapes"]), strict=True))
            sizes = [shape.numel() for shape in shapes.values()]
            bits = state["bits"].cpu()
            flat = torch.split(unpack(bits, sum(sizes)), sizes)
            unchanged = state["checksum"] == _checksum(shapes, bits)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ValueError(
                f"this is no state of Masks ({type(error).__name__}: {error}): pass what Masks.state_dict() gave"
            ) from error
        if not unchanged:
            raise ValueError("the masks were changed since they were saved, as their checksum shows: use another copy")
        return cls({name: part.view(shape).clone() for (name, shape), part in zip(shapes.items(), flat, strict=True)})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file, whole or not at all; whatever was there before stays until then.

        Where processes run together, call it on all of them; rank zero writes.

        Example:
            >>> import tempfile
            >>> path = tempfile.mkdtemp() + "/masks.pt"
            >>> Masks({"weight": torch.tensor([[True, False]])}).save(path)
            >>> Masks.load(path)
            Masks(1 tensors, 2 weights, 0.5000 pruned)
        """
        state = self.state_dict()
        with together(f"writing {path}"):
            if rank() == 0:
                write_tensors(Path(path), state)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Masks:
        """Read a file of `save`. No code in it is run.

        Raises:
            ValueError: If it is damaged, or another kind of file.
            OSError: If it can't be read.
        """
        try:
            return cls.from_state_dict(read_tensors(Path(path)))
        except ValueError as error:
            raise ValueError(f"{path} is damaged, or no file of Masks.save: {error}") from error


def _checksum(shapes: Mapping[str, torch.Size], bits: Tensor) -> int:
    """A number that nearly every change to masks changes; torch notices none in the bytes of a tensor."""
    described = repr([(name, *shape) for name, shape in shapes.items()])
    return zlib.crc32(bits.numpy().tobytes(), zlib.crc32(described.encode()))


def _count(masks: Mapping[str, Tensor]) -> dict[str, int]:
    """Number of weights that stay, by name; of masks that are spread over processes, on all of them."""
    parts = [part_of(name, mask) for name, mask in masks.items()]
    counts = torch.tensor([int(part.values.sum()) for part in parts], dtype=torch.int64)
    for group in dict.fromkeys(part.group for part in parts if part.group is not None):  # one order on all ranks
        indices = [i for i, part in enumerate(parts) if part.group is group]
        counts[indices] = summed(counts[indices], group)
    return dict(zip(masks, counts.tolist(), strict=True))
