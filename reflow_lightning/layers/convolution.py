"""Convolutions of one to three dimensions, transposed and deformable ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from reflow_lightning.layers.affine import AffineMap, Stage
from reflow_lightning.layers.correlation import correlates, patch_products
from reflow_lightning.layers.layer import (
    Energies,
    NotSupportedError,
    OneMap,
    Weight,
    check_as_in_torch,
    writable,
    writable_of,
)
from reflow_lightning.layers.patches import output_size, padded, patches, transposed_patches, windows_of
from reflow_lightning.layers.registry import layer_of
from reflow_lightning.running.compat.torch import CONVOLVE, Convolution, TransposedConvolution, padding_sides
from reflow_lightning.running.exact import exact
from reflow_lightning.running.hooks import Call

_PIECE = 1 << 22  # input values that are laid out at once: bounds the memory that unfolding takes


class _Convolution(OneMap):
    """What all kinds have in common: channels before the positions."""

    module: Any

    def __init__(self, module: nn.Module, name: str = "") -> None:
        super().__init__(module, name)
        self.rank = len(self.module.kernel_size)
        self.channel_dim = -1 - self.rank

    def outputs(self, call: Call) -> list[Tensor]:
        """The output itself."""
        return [call.output if call.output.ndim > self.rank + 1 else call.output[None]]


class ConvLayer(_Convolution):
    """A convolution with any stride, padding, dilation and groups."""

    weights: tuple[Weight, ...] = (Weight("weight"),)
    stages: tuple[Stage, ...] = (Stage((0,)),)

    def make_map(self) -> AffineMap:
        """See `OneMap`."""
        check_as_in_torch(self.module, CONVOLVE)
        weight, module = writable(self.module, "weight"), self.module
        return AffineMap(self.name, len(weight), (weight,), writable_of(module, "bias"), groups=module.groups)

    def inputs(self, index: int, call: Call) -> Iterator[Tensor]:
        """The patches under the kernel; each position is a sample."""
        module, values = self.module, call.first
        values = values if values.ndim > self.rank + 1 else values[None]
        width = math.prod(values.shape[1:]) * math.prod(module.kernel_size)
        for piece in torch.split(values, max(1, _PIECE // width)):
            yield patches(piece, module)

    @property
    def is_pointwise(self) -> bool:
        """Whether it multiplies each position by itself, with one matrix: a kernel of one element, and nothing else."""
        module = self.module
        alone = math.prod(module.kernel_size) == math.prod(module.stride) == module.groups == 1
        return alone and not any(padding_sides(module))

    def products(self, index: int, call: Call, outputs: Tensor) -> Tensor | None:
        """By correlation, where there are more positions than elements of a patch: else it is no faster."""
        width = self.module.weight[0].numel()
        if not correlates(self.module) or outputs[:, 0].numel() < width:
            return None
        values = call.first if call.first.ndim == outputs.ndim else call.first[None]
        exact_enough = torch.promote_types(values.dtype, torch.float32)
        return patch_products(values.to(exact_enough), outputs.to(exact_enough), self.module)

    def energies(self, call: Call) -> Energies:
        """Every position under the kernel. Squares are summed before they are laid out, which saves the patches."""
        module, values = self.module, call.first
        squares = exact(values).square().reshape(-1, *values.shape[-1 - self.rank :]).sum(0)  # (C, ...)
        windows = windows_of(padded(squares[None], module)[0], module, first=1)
        energy = windows.sum(tuple(range(1, 1 + self.rank)))  # (C, *kernel)
        by_group = energy.view(module.groups, -1, *module.kernel_size)
        yield "weight", by_group.repeat_interleave(module.out_channels // module.groups, 0)


class TransposedConvLayer(_Convolution):
    """A transposed convolution with any stride, padding and dilation; one with groups can't be written."""

    stages: tuple[Stage, ...] = (Stage((0,)),)

    def __init__(self, module: nn.Module, name: str = "") -> None:
        super().__init__(module, name)
        self.weights = (Weight("weight", inputs=0, outputs=1, groups=self.module.groups),)

    @property
    def sees_inputs(self) -> bool:
        """See `Layer`."""
        return True

    def make_map(self) -> AffineMap:
        """See `OneMap`."""
        check_as_in_torch(self.module)
        if self.module.groups > 1:
            raise NotSupportedError("a transposed convolution with groups")
        weight = writable(self.module, "weight").transpose(0, 1)
        return AffineMap(self.name, len(weight), (weight,), writable_of(self.module, "bias"))

    def inputs(self, index: int, call: Call) -> Iterator[Tensor]:
        """What each position of the output is made of; each is a sample."""
        module, values = self.module, call.first
        values = values if values.ndim > self.rank + 1 else values[None]
        size = output_size(module, values, call.argument(1, "output_size"))
        width = values.shape[1] * math.prod(size) * math.prod(module.kernel_size)
        for piece in torch.split(values, max(1, _PIECE // width)):
            yield transposed_patches(piece, module, size)

    def energies(self, call: Call) -> Energies:
        """Every position of a channel, also where padding cuts off what a kernel element makes of it."""
        values = call.first
        positions = math.prod(values.shape[-self.rank :])
        squares = exact(values).square().reshape(-1, self.module.in_channels, positions).sum((0, 2))
        yield "weight", squares.view(-1, *(1,) * (self.rank + 1))


class DeformConvLayer(_Convolution):
    """A ``DeformConv2d`` of torchvision: its channels can be rescaled; what it samples is not laid out."""

    weights: tuple[Weight, ...] = (Weight("weight"),)

    def make_map(self) -> AffineMap:
        """See `OneMap`."""
        weight = writable(self.module, "weight")
        return AffineMap(self.name, len(weight), (weight,), writable_of(self.module, "bias"))


layer_of.register(Convolution, ConvLayer)
layer_of.register(TransposedConvolution, TransposedConvLayer)
layer_of.register("torchvision.ops.deform_conv.DeformConv2d", DeformConvLayer)
