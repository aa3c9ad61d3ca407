"""Wide residual networks for small images (arXiv 1605.07146)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class WideBlock(nn.Module):
    """BatchNorm and ReLU come before each of two 3x3 convolutions; a 1x1 convolution adapts the shortcut.

    Args:
        in_channels: Channels that come in.
        out_channels: Channels that go out.
        stride: Step of the first convolution and of the shortcut.
        dropout: Probability that a value between the convolutions is dropped.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut = (
            nn.Conv2d(in_channels, out_channels, 1, stride, bias=False) if in_channels != out_channels else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', H / stride, W / stride)."""
        activated = torch.relu(self.bn1(x))
        out: Tensor = self.conv2(self.dropout(torch.relu(self.bn2(self.conv1(activated)))))
        return out + (x if self.shortcut is None else self.shortcut(activated))


class WideResNet(nn.Module):
    """A residual network of few layers and many channels: three stages of 16, 32 and 64 times the width.

    Args:
        depth: Layers on the longest path but the shortcuts', ``6 * blocks + 4``: 22, 28, ...
        width: Multiplies the channels.
        num_classes: Number of classes.
        in_channels: Channels of the images.
        dropout: Probability that a value within a block is dropped.

    Raises:
        ValueError: If the depth is not of that form.

    Example:
        >>> WideResNet(depth=10, width=1)(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 10])
    """

    def __init__(
        self, depth: int = 28, width: int = 8, num_classes: int = 10, in_channels: int = 3, dropout: float = 0.3
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth={depth} must be 6 * blocks + 4, such as 22 or 28")
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        channels, layers = 16, []
        for stage in range(3):
            out_channels = 16 * width * 2**stage
            for block in range(blocks):
                layers.append(WideBlock(channels, out_channels, 2 if stage and not block else 1, dropout))
                channels = out_channels
        self.layers = nn.Sequential(*layers)
        self.bn1 = nn.BatchNorm2d(channels)
        self.linear = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, classes)."""
        out = torch.relu(self.bn1(self.layers(self.conv1(x))))
        logits: Tensor = self.linear(out.mean((2, 3)))
        return logits
