"""What convolutions multiply with their kernels, laid out: one row a position of the output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional

from reflow_lightning.running.compat.torch import Convolution, TransposedConvolution, padding_sides


def patches(values: Tensor, conv: Convolution) -> Tensor:
    """The patches that a convolution multiplies with its kernel.

    Args:
        values: Input of shape (N, C, ...).
        conv: The convolution, with any stride, padding, dilation and groups.

    Returns:
        Tensor of shape (groups, N * positions, C / groups * kernel elements).

    Example:
        >>> import torch
        >>> conv = torch.nn.Conv2d(2, 3, 3, stride=2, padding=1)
        >>> x = torch.randn(4, 2, 8, 8)
        >>> y = patches(x, conv)[0] @ conv.weight.flatten(1).T + conv.bias
        >>> torch.allclose(y.view(4, 4, 4, 3).permute(0, 3, 1, 2), conv(x), atol=1e-5)
        True
    """
    rank = len(conv.kernel_size)
    values = windows_of(padded(values, conv), conv, first=2)
    samples, channels = values.shape[:2]  # (N, C, positions..., kernel...)
    values = values.reshape(samples, conv.groups, channels // conv.groups, *values.shape[2:])
    positions, kernel_axes = range(3, 3 + rank), range(3 + rank, 3 + 2 * rank)
    values = values.permute(1, 0, *positions, 2, *kernel_axes)
    return values.reshape(conv.groups, -1, math.prod(values.shape[2 + rank :]))


def padded(values: Tensor, conv: Convolution) -> Tensor:
    """The values with what a convolution pads them with, of shape (N, C, ...)."""
    sides = padding_sides(conv)  # in numbers, also for padding="same"
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    return functional.pad(values, sides, mode) if any(sides) else values


def windows_of(values: Tensor, conv: Convolution, first: int) -> Tensor:
    """The values under each position of the kernel, along new dimensions at the end.

    Args:
        values: Padded values.
        conv: The convolution.
        first: The first dimension of positions.
    """
    steps = zip(conv.kernel_size, conv.stride, conv.dilation, strict=True)
    for axis, (kernel, stride, dilation) in enumerate(steps, start=first):
        values = values.unfold(axis, dilation * (kernel - 1) + 1, stride)[..., ::dilation]
    return values


def transposed_patches(values: Tensor, conv: TransposedConvolution, size: Sequence[int]) -> Tensor:
    """What a transposed convolution multiplies with its kernel to make each position of its output.

    It is a convolution of stride 1 with the kernel turned round, over the input with zeros between its positions.

    Args:
        values: Input of shape (N, C, ...).
        conv: The transposed convolution, without groups.
        size: Of the positions of the output.

    Returns:
        Tensor of shape (1, N * positions, C * kernel elements).

    Example:
        >>> import torch
        >>> conv = torch.nn.ConvTranspose1d(2, 3, 4, stride=2, padding=1)
        >>> x = torch.randn(5, 2, 6)
        >>> y = transposed_patches(x, conv, [12])[0] @ conv.weight.transpose(0, 1).flatten(1).T + conv.bias
        >>> torch.allclose(y.view(5, 12, 3).transpose(1, 2), conv(x), atol=1e-5)
        True
    """
    rank = len(conv.kernel_size)
    between = [(n - 1) * stride + 1 for n, stride in zip(values.shape[2:], conv.stride, strict=True)]
    apart = values.new_zeros(*values.shape[:2], *between)
    places: tuple[Any, ...] = (..., *(slice(None, None, stride) for stride in conv.stride))
    apart[places] = values
    sides: list[int] = []
    for axis in reversed(range(rank)):
        reach = conv.dilation[axis] * (conv.kernel_size[axis] - 1)
        before = reach - int(conv.padding[axis])
        sides += [before, size[axis] + reach - before - apart.shape[2 + axis]]
    windows = functional.pad(apart, sides)
    for axis, (kernel, dilation) in enumerate(zip(conv.kernel_size, conv.dilation, strict=True), start=2):
        windows = windows.unfold(axis, dilation * (kernel - 1) + 1, 1)[..., ::dilation]
    windows = windows.flip(tuple(range(-rank, 0))).movedim(1, 1 + rank)  # (N, positions..., C, kernel...)
    return windows.reshape(1, -1, math.prod(windows.shape[1 + rank :]))


def output_size(conv: TransposedConvolution, values: Tensor, given: Sequence[int] | None) -> list[int]:
    """The positions that a transposed convolution puts out; it may be called with a size.

    Example:
        >>> import torch
        >>> output_size(torch.nn.ConvTranspose1d(2, 3, 4, stride=2, padding=1), torch.ones(5, 2, 6), None)
        [12]
    """
    rank = len(conv.kernel_size)
    if given is not None:
        return list(given[-rank:])
    sizes = values.shape[2:]
    axes = zip(sizes, conv.stride, conv.padding, conv.dilation, conv.kernel_size, conv.output_padding, strict=True)
    return [(n - 1) * stride - 2 * int(pad) + wide * (k - 1) + more + 1 for n, stride, pad, wide, k, more in axes]
