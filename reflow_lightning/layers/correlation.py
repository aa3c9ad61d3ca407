"""Products of the patches under a kernel, summed over all positions, without laying the patches out.

Two taps of a kernel see the same image, shifted against each other. So the products of all pairs of taps, summed over
an endless plane, depend on their distance alone: they are a correlation of the image with itself, and torch computes
that as the gradient of a convolution's weight. What lies outside of the convolution's positions is taken off again; it
touches the rim of the image alone, where few taps see anything. For a kernel of 3 x 3 this saves four fifths of the
multiplications, and the ninefold copy of the input.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional, grad

from reflow_lightning.running.compat.torch import padding_sides
from reflow_lightning.running.exact import exact, exact_device

_weight_gradient: Any = grad.conv2d_weight  # which has no types


def correlates(conv: Any) -> bool:
    """Whether `patch_products` knows a convolution, and saves something."""
    return (
        isinstance(conv, nn.Conv2d)
        and conv.groups == 1
        and tuple(conv.stride) == (1, 1)
        and max(conv.kernel_size) > 1
        and conv.padding_mode == "zeros"
    )


def patch_products(values: Tensor, outputs: Tensor, conv: nn.Conv2d) -> Tensor:
    """Products of (1, patch) with (1, patch, output), summed over samples and positions.

    Args:
        values: Input of shape (N, C, H, W).
        outputs: What goes with each position, of shape (N, O, H', W').
        conv: One that `correlates`.

    Returns:
        Tensor of shape (1 + K, 1 + K + O) in float64, where K are the C x kernel elements of a patch. The sums of the
        patches stand in row 0 alone.

    Example:
        >>> conv = nn.Conv2d(2, 3, 3, padding=1)
        >>> x, y = torch.randn(4, 2, 8, 8), torch.randn(4, 3, 8, 8)
        >>> patches = functional.unfold(x, 3, padding=1).transpose(1, 2).reshape(-1, 18)
        >>> torch.allclose(patch_products(x, y, conv)[1:, 1:19], (patches.T @ patches).double(), atol=1e-3)
        True
    """
    mean, of_outputs = values.mean((0, 2, 3), keepdim=True), outputs.mean((0, 2, 3), keepdim=True)
    image, wanted = values - mean, outputs - of_outputs  # so that a large mean costs no digits
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        gram = _on_the_plane(image, conv)
        for rows, part in _beside(image, conv):
            gram[rows[:, None], rows] -= exact(part.T @ part)
        size = (outputs.shape[1], values.shape[1], *conv.kernel_size)
        padded = functional.pad(image, padding_sides(conv))
        products = exact(_weight_gradient(padded, size, wanted, dilation=conv.dilation)).flatten(1)
    # The mean comes back by what a patch sees of the image at all, which is the same for all samples.
    mean, of_outputs = exact(mean).flatten(), exact(of_outputs).flatten()
    seen = _laid_out(mean.new_ones(1, *values.shape[2:]), conv)  # (positions, taps)
    deviations = _laid_out(exact(image.sum(0)), conv)  # (positions, K)
    mixed = (mean[:, None, None] * (seen.T @ deviations)).flatten(0, 1)
    gram += mixed + mixed.T + len(values) * torch.kron(torch.outer(mean, mean), seen.T @ seen)
    of_taps = exact(wanted.sum(0)).flatten(1) @ seen  # (O, taps)
    products += (mean[:, None] * of_taps[:, None]).flatten(1)
    count = float(len(values) * len(seen))
    of_patches = deviations.sum(0) + len(values) * torch.kron(mean, seen.sum(0))
    products += torch.outer(of_outputs, of_patches)
    totals = exact(wanted.sum((0, 2, 3))) + count * of_outputs
    upper = torch.cat([gram.new_full((1,), count), of_patches, totals])
    return torch.cat([upper[None], torch.cat([gram.new_zeros(len(gram), 1), gram, products.T], 1)])


def _laid_out(image: Tensor, conv: nn.Conv2d) -> Tensor:
    """The patches of one image of shape (C, H, W), one a row."""
    padded = functional.pad(image[None], padding_sides(conv))
    patches = functional.unfold(padded, conv.kernel_size, dilation=conv.dilation)
    return patches[0].T


def _on_the_plane(image: Tensor, conv: nn.Conv2d) -> Tensor:
    """The products of all pairs of taps, of shape (C kernel, C kernel), summed over an endless plane, in float64."""
    (high, wide), (down, right) = conv.kernel_size, conv.dilation
    channels = image.shape[1]
    margins = ((wide - 1) * right, (wide - 1) * right, 0, (high - 1) * down)
    size = (channels, channels, high, 2 * wide - 1)
    by_distance = exact(_weight_gradient(functional.pad(image, margins), size, image, dilation=conv.dilation))
    gram = by_distance.new_empty(channels, high, wide, channels, high, wide)
    for i in range(high):
        for j in range(wide):
            for k in range(i, high):
                for m in range(wide):
                    gram[:, i, j, :, k, m] = by_distance[:, :, k - i, m - j + wide - 1]
                    gram[:, k, m, :, i, j] = by_distance[:, :, k - i, m - j + wide - 1].T
    return gram.view(channels * high * wide, -1)


def _beside(image: Tensor, conv: nn.Conv2d) -> Iterator[tuple[Tensor, Tensor]]:
    """Positions of the plane that are none of the convolution's, but from which some taps see the image.

    Yields:
        Which elements of a patch these taps are, and what they see, of shape (positions, elements).
    """
    channels, height, width = image.shape[1:]
    left, right, top, bottom = padding_sides(conv)
    (high, wide), (down, across) = conv.kernel_size, conv.dilation
    index = torch.arange(channels * high * wide, device=exact_device(image)).view(channels, high, wide)
    for row in _outside(height, high, down, top, bottom):  # over the whole width
        taps = [i for i in range(high) if 0 <= row + i * down - top < height]
        strip = image[:, :, [row + i * down - top for i in taps]]
        margin = (wide - 1) * across
        seen = functional.pad(strip, (margin, margin)).unfold(3, margin + 1, 1)[..., ::across]
        yield index[:, taps].flatten(), seen.permute(0, 3, 1, 2, 4).reshape(-1, channels * len(taps) * wide)
    for column in _outside(width, wide, across, left, right):  # in the convolution's own rows
        taps = [j for j in range(wide) if 0 <= column + j * across - left < width]
        strip = image[:, :, :, [column + j * across - left for j in taps]]
        seen = functional.pad(strip, (0, 0, top, bottom)).unfold(2, (high - 1) * down + 1, 1)[..., ::down]
        yield index[:, :, taps].flatten(), seen.permute(0, 2, 1, 4, 3).reshape(-1, channels * high * len(taps))


def _outside(size: int, kernel: int, dilation: int, before: int, after: int) -> Iterator[int]:
    """Positions along one axis that are none of the convolution's, but from which a tap sees the image."""
    positions = size + before + after - (kernel - 1) * dilation
    for position in range(before - (kernel - 1) * dilation, size + before):
        if not 0 <= position < positions and any(0 <= position + i * dilation - before < size for i in range(kernel)):
            yield position
