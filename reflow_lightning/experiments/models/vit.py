"""A small vision transformer (arXiv 2010.11929): LayerNorm before attention and before each pair of linear layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TransformerBlock(nn.Module):
    """Attention between the patches, then two linear layers for each of them; both are added to their input.

    Args:
        width: Length of a patch's vector.
        heads: Number of attention heads; divides the width.
        expansion: Ratio of the units between the two linear layers to the width.
    """

    def __init__(self, width: int, heads: int, expansion: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, expansion * width)
        self.activation = nn.GELU()
        self.fc2 = nn.Linear(expansion * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map patches (N, P, width) to the same shape."""
        normed = self.norm1(x)
        x = x + self.attention(normed, normed, normed, need_weights=False)[0]
        out: Tensor = x + self.fc2(self.activation(self.fc1(self.norm2(x))))
        return out


class VisionTransformer(nn.Module):
    """Patches with learned positions, transformer blocks, and a linear classifier on the mean over the patches.

    Args:
        image_size: Height and width of the images.
        patch_size: Height and width of a patch; divides ``image_size``.
        in_channels: Channels of the images.
        num_classes: Number of classes.
        width: Length of a patch's vector.
        depth: Number of blocks.
        heads: Number of attention heads; divides the width.
        expansion: See `TransformerBlock`.

    Raises:
        ValueError: If the patches do not cover the images.

    Example:
        >>> VisionTransformer(image_size=8, patch_size=2, in_channels=1)(torch.zeros(4, 1, 8, 8)).shape
        torch.Size([4, 10])
    """

    def __init__(
        self,
        image_size: int = 32,
        patch_size: int = 4,
        in_channels: int = 3,
        num_classes: int = 10,
        width: int = 64,
        depth: int = 4,
        heads: int = 4,
        expansion: int = 2,
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"patch_size={patch_size} must divide image_size={image_size}")
        self.patches = nn.Conv2d(in_channels, width, patch_size, patch_size)
        self.positions = nn.Parameter(0.02 * torch.randn((image_size // patch_size) ** 2, width))
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads, expansion) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, C, image_size, image_size) to logits (N, classes)."""
        patches = self.patches(images).flatten(2).transpose(1, 2)
        logits: Tensor = self.head(self.norm(self.blocks(patches + self.positions)).mean(1))
        return logits
