"""The affine maps of torch's layers, and of those that others register."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import singledispatch
from types import NoneType

import torch
from torch import Tensor, nn
from torch.nn import functional

from reflow_lightning.layers.affine import AffineMap, Layer, Stage
from reflow_lightning.running.compat.torch import (
    CONVOLVE,
    Convolution,
    RunningNorm,
    TransposedConvolution,
    own_parameters,
    padding_sides,
)
from reflow_lightning.running.errors import ReflowError
from reflow_lightning.running.hooks import Call

_PIECE = 1 << 22  # input values that are laid out at once: bounds the memory that unfolding takes


class NotSupportedError(ReflowError):
    """Why the affine maps of a module can't be written."""


@singledispatch
def layer_of(module: nn.Module, name: str) -> Layer | None:
    """The affine maps of a module; ``None`` if it has none.

    Register a function for a layer type of your own: ``@layer_of.register(MyCell)``.

    Raises:
        NotSupportedError: If it has some that can't be written.

    Example:
        >>> layer_of(nn.Linear(3, 4), "fc").maps[0].channels
        4
    """
    return None


class LinearLayer:
    """A `torch.nn.Linear`."""

    dim = -1
    stages: tuple[Stage, ...] = (Stage((0,)),)
    feeds_back = False

    def __init__(self, module: nn.Linear, name: str) -> None:
        self.maps = (AffineMap(name, module.out_features, (plain(module, "weight"),), some(module, "bias")),)

    def outputs(self, call: Call) -> list[Tensor]:
        """The output itself."""
        return [call.output.reshape(-1, call.output.shape[-1])]

    def inputs(self, index: int, call: Call) -> Iterator[Tensor]:
        """All positions are samples."""
        values = call.argument(0, "input")
        yield values.reshape(1, -1, values.shape[-1])


class ConvLayer:
    """A convolution of one to three dimensions."""

    stages: tuple[Stage, ...] = (Stage((0,)),)
    feeds_back = False

    def __init__(self, module: Convolution, name: str) -> None:
        self.module = module
        self.rank = len(module.kernel_size)
        self.dim = -1 - self.rank
        weights = (plain(module, "weight"),)
        self.maps = (AffineMap(name, module.out_channels, weights, some(module, "bias"), groups=module.groups),)

    def outputs(self, call: Call) -> list[Tensor]:
        """The output itself."""
        return [call.output if call.output.ndim > self.rank + 1 else call.output[None]]

    def inputs(self, index: int, call: Call) -> Iterator[Tensor]:
        """The patches under the kernel, those of every position a sample."""
        module, values = self.module, call.argument(0, "input")
        values = values if values.ndim > self.rank + 1 else values[None]
        width = math.prod(values.shape[1:]) * math.prod(module.kernel_size)
        for piece in torch.split(values, max(1, _PIECE // width)):
            yield patches(piece, module)


def patches(values: Tensor, conv: Convolution) -> Tensor:
    """The patches that a convolution multiplies with its kernel.

    Args:
        values: Input of shape (N, C, ...).
        conv: The convolution, with any stride, padding, dilation and groups.

    Returns:
        Tensor of shape (groups, N * positions, C / groups * kernel elements).

    Example:
        >>> conv = nn.Conv2d(2, 3, 3, stride=2, padding=1)
        >>> x = torch.randn(4, 2, 8, 8)
        >>> y = patches(x, conv)[0] @ conv.weight.flatten(1).T + conv.bias
        >>> torch.allclose(y.view(4, 4, 4, 3).permute(0, 3, 1, 2), conv(x), atol=1e-5)
        True
    """
    rank = len(conv.kernel_size)
    sides = padding_sides(conv)
    if any(sides):
        mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
        values = functional.pad(values, sides, mode)
    steps = zip(conv.kernel_size, conv.stride, conv.dilation, strict=True)
    for axis, (kernel, stride, dilation) in enumerate(steps, start=2):
        values = values.unfold(axis, dilation * (kernel - 1) + 1, stride)[..., ::dilation]
    samples, channels = values.shape[:2]  # (N, C, positions..., kernel...)
    values = values.reshape(samples, conv.groups, channels // conv.groups, *values.shape[2:])
    positions, kernel_axes = range(3, 3 + rank), range(3 + rank, 3 + 2 * rank)
    values = values.permute(1, 0, *positions, 2, *kernel_axes)
    return values.reshape(conv.groups, -1, math.prod(values.shape[2 + rank :]))


class TransposedConvLayer:
    """A transposed convolution: its channels can be rescaled; its inputs are not laid out."""

    stages: tuple[Stage, ...] = ()
    feeds_back = False

    def __init__(self, module: TransposedConvolution, name: str) -> None:
        if module.groups > 1:
            raise NotSupportedError("a transposed convolution with groups")
        self.rank = len(module.kernel_size)
        self.dim = -1 - self.rank
        weights = (plain(module, "weight").transpose(0, 1),)
        self.maps = (AffineMap(name, module.out_channels, weights, some(module, "bias")),)

    def outputs(self, call: Call) -> list[Tensor]:
        """The output itself."""
        return [call.output if call.output.ndim > self.rank + 1 else call.output[None]]

    def inputs(self, index: int, call: Call) -> Iterator[Tensor]:
        """None."""
        return iter(())


class NormLayer:
    """A norm with a weight for each channel, and maybe a bias."""

    stages: tuple[Stage, ...] = ()
    feeds_back = False

    def __init__(self, module: nn.Module, name: str, dim: int) -> None:
        self.dim = dim
        if not isinstance(getattr(module, "act", None), (nn.Identity, NoneType)):
            raise NotSupportedError(f"a {type(module).__name__}, which has an activation in it")
        weight = plain(module, "weight")
        if weight.ndim != 1:
            raise NotSupportedError(f"a {type(module).__name__} over {weight.ndim} dimensions")
        self.maps = (AffineMap(name, weight.numel(), (weight,), some(module, "bias")),)

    def outputs(self, call: Call) -> list[Tensor]:
        """The output itself."""
        return [call.output.movedim(self.dim, 1) if call.output.ndim > 1 else call.output[None]]

    def inputs(self, index: int, call: Call) -> Iterator[Tensor]:
        """None."""
        return iter(())


@layer_of.register(nn.Linear)
def _(module: nn.Linear, name: str) -> Layer:
    as_in_torch(module)
    return LinearLayer(module, name)


@layer_of.register(Convolution)
def _(module: Convolution, name: str) -> Layer:
    as_in_torch(module)
    if isinstance(module, TransposedConvolution):
        return TransposedConvLayer(module, name)
    as_in_torch(module, CONVOLVE)
    return ConvLayer(module, name)


@layer_of.register(RunningNorm)
@layer_of.register(nn.GroupNorm)
def _(module: RunningNorm | nn.GroupNorm, name: str) -> Layer | None:
    return None if module.weight is None else NormLayer(module, name, dim=1)


@layer_of.register(nn.LayerNorm)
@layer_of.register(nn.RMSNorm)
def _(module: nn.LayerNorm | nn.RMSNorm, name: str) -> Layer | None:
    first = type(module).__name__.endswith("2d")  # torchvision and timm derive norms of NCHW maps from these
    if not first:
        as_in_torch(module)
    return None if module.weight is None else NormLayer(module, name, dim=1 if first else -1)


def plain(module: nn.Module, name: str) -> Tensor:
    """A view of a parameter that the module itself holds.

    Raises:
        NotSupportedError: If it computes it from others, or has none that can be written.
    """
    parameter = own_parameters(module).get(name)
    if parameter is None:
        raise NotSupportedError(f"its {name} is no plain parameter")
    if not parameter.is_floating_point() or nn.parameter.is_lazy(parameter) or parameter.is_meta:
        raise NotSupportedError(f"its {name} holds no floating-point values")
    return parameter.detach()


def as_in_torch(module: nn.Module, *methods: str) -> None:
    """Check that a subclass of one of torch's layers computes what that does.

    Raises:
        NotSupportedError: If it has a forward of its own, which may put channels elsewhere or change weights first.
    """
    kind = type(module)
    if not all(getattr(kind, method).__module__.startswith("torch.") for method in ("forward", *methods)):
        raise NotSupportedError(f"{kind.__name__} has a forward of its own: register it with layer_of")


def some(module: nn.Module, *names: str) -> tuple[Tensor, ...]:
    """Views of those of the named parameters that the module has."""
    return tuple(plain(module, name) for name in names if getattr(module, name, None) is not None)
