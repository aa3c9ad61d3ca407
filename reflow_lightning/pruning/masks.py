"""Masks: which weights stay. They live beside the model, never in it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn, optim

from reflow_lightning.pruning.belonging import held_here, tensors_of
from reflow_lightning.pruning.bit_mask import BitMasks
from reflow_lightning.pruning.bits import zero_where_pruned
from reflow_lightning.pruning.coverage import Coverage, coverage_of
from reflow_lightning.pruning.kept import KeptZeros
from reflow_lightning.pruning.mask_state import packed, unpacked
from reflow_lightning.pruning.moved import moved
from reflow_lightning.running.files import read_tensors, write_tensors
from reflow_lightning.running.formats import reading
from reflow_lightning.running.inference import outside_inference
from reflow_lightning.running.processes import together
from reflow_lightning.running.shards import local, part_of, whole_like, whole_of
from reflow_lightning.running.world import rank


class Masks(BitMasks):
    """A mapping of parameter name to bool tensor, True where the weight stays.

    It holds a bit a weight. The tensor that it gives for a name is made anew each time; to change it changes no mask.

    Args:
        masks: Bool tensors by name, or pairs of name and tensor; a generator of pairs need hold one tensor at a time.

    Raises:
        ValueError: If one is no bool tensor.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> masks = Masks({"weight": torch.tensor([[True, False]])})
        >>> masks.apply(model)
        >>> masks.sparsity, int((model.weight == 0).sum())
        (0.5, 1)
    """

    def __repr__(self) -> str:
        return f"Masks({len(self)} tensors, {self._total} weights, {self.sparsity:.4f} pruned)"

    @property
    def _total(self) -> int:
        return sum(shape.numel() for shape in self.shapes.values())

    @property
    def sparsity(self) -> float:
        """Share of the selected weights that are pruned."""
        return 1 - sum(self._kept.values()) / self._total if self._total else 0.0

    @property
    def sparsities(self) -> dict[str, float]:
        """Share of pruned weights by parameter name."""
        return {n: 1 - self._kept[n] / shape.numel() if shape.numel() else 0.0 for n, shape in self.shapes.items()}

    def reaches(self, sparsity: float) -> bool:
        """Whether as many weights are pruned as this sparsity asks for, up to rounding by half a weight a tensor."""
        return self._total - sum(self._kept.values()) >= sparsity * self._total - max(1, len(self)) / 2

    def coverage(self, model: nn.Module) -> Coverage:
        """How much of all matrices of a model is pruned, including the matrices that were not selected.

        Example:
            >>> model = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
            >>> masks = Masks({"0.weight": torch.arange(4) > torch.ones(4, 4)})
            >>> masks.sparsity, masks.coverage(model).share, masks.coverage(model).left
            (0.5, 0.25, {'Linear': 1})
        """
        return coverage_of(model, self._kept)

    def joined(self, others: Iterable[tuple[str, Tensor]]) -> Masks:
        """These masks and others, given as pairs of name and mask; one of the same name takes the place of the old one.

        Example:
            >>> Masks({"a": torch.tensor([True])}).joined([("b", torch.tensor([False]))]).sparsities
            {'a': 0.0, 'b': 1.0}
        """
        return Masks(chain(self.items(), others))

    def parameters(self, model: nn.Module) -> list[Tensor]:
        """The model's parameters that the masks belong to, or buffers, in the order of the masks.

        Raises:
            ValueError: If a name is missing in the model, or has another shape there.
        """
        return tensors_of(model, self.shapes)

    def local(self, model: nn.Module) -> list[tuple[Tensor, Tensor]]:
        """The model's parameters and their masks, as far as this process holds them, on the parameters' devices.

        The parameters' values share the model's memory. The masks take a byte a weight.

        Raises:
            ValueError: If the masks do not fit the model.
        """
        return list(held_here(model, self))

    @outside_inference()
    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        """Set the pruned weights of a model to zero, in place, also NaN and infinite ones.

        Raises:
            ValueError: If the masks do not fit the model, which then is unchanged.
        """
        values = [local(parameter.detach()) for parameter in self.parameters(model)]
        zero_where_pruned(values, (mask for _, mask in held_here(model, self)))

    @outside_inference()
    @torch.no_grad()
    def moved(self, model: nn.Module) -> Masks:
        """The masks after a repair that exchanged pruned weights for others, such as ``"reselect"``.

        Raises:
            ValueError: If the masks do not fit the model, or more weights are other than zero than were kept.

        Example:
            >>> layer, masks = nn.Linear(3, 1), Masks({"weight": torch.tensor([[True, True, False]])})
            >>> _ = layer.weight.data.copy_(torch.tensor([[0.0, 0.0, 1.0]]))
            >>> masks.moved(layer)["weight"].tolist()
            [[True, False, True]]
        """
        named = zip(self.items(), self.parameters(model), strict=True)
        return Masks((name, self._after(name, mask, parameter)) for (name, mask), parameter in named)

    def _after(self, name: str, mask: Tensor, parameter: Tensor) -> Tensor:
        before, now = (whole_of(part_of(name, tensor)) for tensor in (mask, parameter))
        return whole_like(parameter, moved(name, before, self._kept[name], now))

    @outside_inference()
    def keep(self, model: nn.Module, *optimizers: optim.Optimizer) -> KeptZeros:
        """Set the pruned weights to zero, and once more after every step of the optimizers, in any training loop.

        Momentum and weight decay would move them, even without a gradient. What the optimizers remember of pruned
        weights is forgotten, once. A step that is skipped, as by a `torch.amp.GradScaler`, changes nothing. In a
        Lightning training `reflow_lightning.Reflow` does all that.

        Several keepers of one model add up: what one of them prunes is zero. An optimizer that is made later takes a
        keeper of its own, and what changes weights without a step, such as a copy of averages, an `apply`.

        Args:
            model: The model. It is held until `remove`; a parameter that is replaced or moved meanwhile is found again
                by its name, at the next step.
            *optimizers: Those that train the pruned weights.

        Returns:
            A handle: ``handle.remove()`` ends it, and so does the end of a ``with`` block. Call
            ``handle.mask_gradients()`` before you clip gradients, so that their norm is of the weights that stay.

        Raises:
            TypeError: If something is no model, or no optimizer.
            ValueError: If there is no optimizer, or one trains none of the pruned weights, or the masks do not fit the
                model. Nothing is changed then.

        Example:
            >>> model = nn.Linear(4, 2)
            >>> optimizer = optim.AdamW(model.parameters(), lr=0.1)
            >>> with Masks({"weight": torch.tensor([[True, False] * 2] * 2)}).keep(model, optimizer):
            ...     for _ in range(3):
            ...         model(torch.ones(1, 4)).sum().backward()
            ...         optimizer.step()
            >>> (model.weight == 0).tolist()
            [[False, True, False, True], [False, True, False, True]]
        """
        return KeptZeros(model, self, optimizers)

    @outside_inference()
    def to(self, device: torch.device | str) -> Masks:
        """The same masks on another device."""
        return Masks((name, mask.to(device)) for name, mask in self.items())

    @outside_inference()
    def spread_over(self, model: nn.Module) -> Masks:
        """The same masks, each on the device of its parameter and spread over processes as that is."""
        named = zip(self.items(), self.parameters(model), strict=True)
        return Masks((name, whole_like(parameter, mask)) for (name, mask), parameter in named)

    @outside_inference()
    def state_dict(self) -> dict[str, Any]:
        """Format, names, shapes, bits and a checksum, for `torch.save` and loading with ``weights_only=True``.

        Of masks that are spread over processes it holds the whole; call it on all of them.

        Example:
            >>> state = Masks({"weight": torch.tensor([[True, False]])}).state_dict()
            >>> state["names"], state["shapes"], state["bits"]
            (['weight'], [[1, 2]], tensor([128], dtype=torch.uint8))
        """
        return packed(self)

    @classmethod
    @outside_inference()
    def from_state_dict(cls, state: Mapping[str, Any]) -> Masks:
        """Make masks from what `state_dict` gave, on the CPU.

        Raises:
            FormatError: If a newer version wrote it.
            ValueError: If it is anything else, or was changed since.
        """
        return cls(unpacked(state))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file, whole or not at all; an older file stays until the new one is complete.

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
    @outside_inference()
    def load(cls, path: str | os.PathLike[str]) -> Masks:
        """Read a file of `save`. No code in it is run.

        Raises:
            FormatError: If a newer version wrote it.
            ValueError: If it is damaged, or another kind of file.
            OSError: If it can't be read.
        """
        with reading(path, "Masks.save"):
            return cls.from_state_dict(read_tensors(Path(path)))
