"""A small ConvNeXt (arXiv 2201.03545): depthwise convolutions with LayerNorm over the channels, and no BatchNorm."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


def _convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Convolve images with the channels last, as LayerNorm and linear layers need them: (N, H, W, C)."""
    out: Tensor = conv(x.movedim(-1, 1))
    return out.movedim(1, -1)


class ConvNeXtBlock(nn.Module):
    """A depthwise convolution, LayerNorm, two pointwise linear layers and a scale a channel, added to the input.

    Args:
        width: Channels.
        kernel_size: Of the depthwise convolution; odd.
        layer_scale: Where the scales start.
    """

    def __init__(self, width: int, kernel_size: int, layer_scale: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, kernel_size, padding=kernel_size // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.full((width,), layer_scale))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, H, W, C) to the same shape."""
        normed = self.norm(_convolve(self.depthwise, x))
        out: Tensor = x + self.scale * self.fc2(nn.functional.gelu(self.fc1(normed)))
        return out


class Downsample(nn.Module):
    """LayerNorm, and a 2x2 convolution that halves the image."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(in_channels)
        self.conv = nn.Conv2d(in_channels, out_channels, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, H, W, C) to (N, H / 2, W / 2, C')."""
        return _convolve(self.conv, self.norm(x))


class ConvNeXt(nn.Module):
    """Stages of blocks; LayerNorm and a 2x2 convolution between them halve the image.

    Args:
        in_channels: Channels of the images.
        num_classes: Number of classes.
        widths: Channels of each stage.
        depths: Blocks of each stage.
        kernel_size: Of the depthwise convolutions; odd.
        patch_size: Height and width of the patches that the first convolution takes.
        layer_scale: Where the scales of the blocks start.

    Raises:
        ValueError: If the stages have not as many widths as depths, or the kernel has no middle.

    Example:
        >>> ConvNeXt(in_channels=1)(torch.zeros(4, 1, 8, 8)).shape
        torch.Size([4, 10])
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 10,
        widths: Sequence[int] = (32, 64),
        depths: Sequence[int] = (2, 2),
        kernel_size: int = 7,
        patch_size: int = 1,
        layer_scale: float = 1e-6,
    ) -> None:
        super().__init__()
        if len(widths) != len(depths):
            raise ValueError(f"widths={list(widths)} and depths={list(depths)} must be of one length: a stage each")
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={kernel_size} must be odd")
        self.patches = nn.Conv2d(in_channels, widths[0], patch_size, patch_size)
        self.patches_norm = nn.LayerNorm(widths[0])
        self.stages = nn.ModuleList(
            nn.Sequential(*(ConvNeXtBlock(width, kernel_size, layer_scale) for _ in range(depth)))
            for width, depth in zip(widths, depths, strict=True)
        )
        self.downsamples = nn.ModuleList(Downsample(before, after) for before, after in pairwise(widths))
        self.norm = nn.LayerNorm(widths[-1])
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, classes)."""
        x = self.stages[0](self.patches_norm(_convolve(self.patches, images.movedim(1, -1))))
        for downsample, stage in zip(self.downsamples, self.stages[1:], strict=True):
            x = stage(downsample(x))
        logits: Tensor = self.head(self.norm(x.mean((1, 2))))
        return logits
