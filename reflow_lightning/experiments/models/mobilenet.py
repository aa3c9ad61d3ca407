"""MobileNet-V1 (arXiv 1704.04861) at any width, and MobileNet-V2 (arXiv 1801.04381) in its form for small images."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


def _separable(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """A depthwise 3x3 and a pointwise convolution, each with BatchNorm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, 3, stride, padding=1, groups=in_channels, bias=False),
        nn.BatchNorm2d(in_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class MobileNetV1(nn.Module):
    """Depthwise separable convolutions in three stages; parameters are named as in the public x0.25 checkpoint.

    Args:
        width: Multiplies all channels.
        num_classes: Number of classes.
        stem_stride: Step of the first convolution: 2 for ImageNet, 1 for images of 32 pixels.

    Example:
        >>> sum(p.numel() for p in MobileNetV1(width=0.25).parameters())
        470072
    """

    def __init__(self, width: float = 1.0, num_classes: int = 1000, stem_stride: int = 2) -> None:
        super().__init__()
        c = [int(width * channels) for channels in (32, 64, 128, 256, 512, 1024)]
        stem = nn.Sequential(
            nn.Conv2d(3, c[0], 3, stem_stride, padding=1, bias=False), nn.BatchNorm2d(c[0]), nn.ReLU(inplace=True)
        )
        self.stage1 = nn.Sequential(
            stem,
            _separable(c[0], c[1], 1),
            _separable(c[1], c[2], 2),
            _separable(c[2], c[2], 1),
            _separable(c[2], c[3], 2),
            _separable(c[3], c[3], 1),
        )
        self.stage2 = nn.Sequential(_separable(c[3], c[4], 2), *(_separable(c[4], c[4], 1) for _ in range(5)))
        self.stage3 = nn.Sequential(_separable(c[4], c[5], 2), _separable(c[5], c[5], 1))
        self.fc = nn.Linear(c[5], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, H, W) to logits (N, classes)."""
        logits: Tensor = self.fc(self.stage3(self.stage2(self.stage1(x))).mean((2, 3)))
        return logits


class InvertedResidual(nn.Module):
    """Expand, filter depthwise, project; where the size stays, the input is added, by a 1x1 convolution if need be.

    Args:
        in_channels: Channels that come in.
        out_channels: Channels that go out.
        stride: Step of the depthwise convolution.
        expansion: Ratio of the channels inside to those that come in.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        inside = expansion * in_channels
        self.conv1 = nn.Conv2d(in_channels, inside, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inside)
        self.conv2 = nn.Conv2d(inside, inside, 3, stride, padding=1, groups=inside, bias=False)
        self.bn2 = nn.BatchNorm2d(inside)
        self.conv3 = nn.Conv2d(inside, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module | None = None
        if stride == 1 and in_channels == out_channels:
            self.shortcut = nn.Identity()
        elif stride == 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', H / stride, W / stride)."""
        out = functional.relu(self.bn1(self.conv1(x)))
        out = functional.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.shortcut is not None:
            out = out + self.shortcut(x)
        projected: Tensor = out
        return projected


_V2_STAGES = (  # expansion, channels, blocks, stride of the first block: the first two strides are 1 for 32 pixels
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class SmallImageMobileNetV2(nn.Module):
    """MobileNet-V2 for images of 32 pixels: less subsampling, and a 1x1 convolution on shortcuts that change channels.

    Those shortcuts can be pruned away, and with them the only path of the signal: the case for a Minimum Threshold in
    arXiv 2209.14624. For ImageNet use torchvision's ``mobilenet_v2``.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the images.

    Example:
        >>> import torch
        >>> SmallImageMobileNetV2()(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 10])
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 32, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        blocks, channels = [], 32
        for expansion, out_channels, count, first_stride in _V2_STAGES:
            for stride in (first_stride, *[1] * (count - 1)):
                blocks.append(InvertedResidual(channels, out_channels, stride, expansion))
                channels = out_channels
        self.layers = nn.Sequential(*blocks)
        self.conv2 = nn.Conv2d(channels, 1280, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(1280)
        self.linear = nn.Linear(1280, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, classes)."""
        out = self.layers(functional.relu(self.bn1(self.conv1(x))))
        out = functional.relu(self.bn2(self.conv2(out)))
        logits: Tensor = self.linear(out.mean((2, 3)))
        return logits
