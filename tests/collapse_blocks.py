"""Building blocks of networks that are collapsed, and chains of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

IMAGE = (3, 6, 6)


class Forward(nn.Module):
    """Layers by name, and a function of them and the inputs."""

    def __init__(self, run: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


class Residual(nn.Module):
    """A block whose input is added, by itself, through a layer, or subsampled with zeros for the new channels."""

    def __init__(self, channels: int, out: int, shortcut: str = "identity", stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, 6, 3, stride, 1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        self.kind, self.stride, self.missing = shortcut, stride, out - channels
        if shortcut == "projection":
            self.down = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.kind == "projection":
            return torch.relu(y + self.down(x))
        if self.kind == "zeros":
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.missing))
        return torch.relu(y + x)


class PreActivation(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(channels), nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(channels), nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(x))
        y = self.conv2(self.relu(self.bn2(self.conv1(y))))
        y += x
        return y


class Inception(nn.Module):
    """Branches side by side, put together along the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(channels, 4, 1)
        self.b = nn.Sequential(nn.Conv2d(channels, 3, 1), nn.ReLU(), nn.Conv2d(3, 5, 3, padding=1))
        self.pool = nn.MaxPool2d(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.a(x).relu(), self.b(x).relu(), self.pool(x)], 1)


class Excitation(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 3, 1), nn.Conv2d(3, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = functional.adaptive_avg_pool2d(x, 1)
        return x * torch.sigmoid(self.up(functional.relu(self.down(scale), inplace=True)))


class Mixer(nn.Module):
    """Linear layers over tokens and over channels, with positional parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 6)
        self.position = nn.Parameter(torch.randn(1, 5, 6))
        self.tokens = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 5))
        self.features = nn.Sequential(nn.Linear(6, 9), nn.GELU(), nn.Linear(9, 6))
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.position
        x = x + self.tokens(x.transpose(1, 2)).transpose(1, 2)
        return self.head((x + self.features(x)).mean(1))


class Branching(nn.Module):
    """Cannot be looked into, as it branches on values."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sin() if x.sum() > 0 else x.cos()


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 8), nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor, y: Tensor, scale: float = 2.0) -> dict[str, Any]:
        h = (self.a(x) + self.b(y)).relu()
        return {"logits": self.head(h) * scale, "inner": (h.mean(1), x)}


def _separable(channels: int) -> nn.Module:
    depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
    return nn.Sequential(depthwise, nn.BatchNorm2d(channels), nn.ReLU6(), nn.Conv2d(channels, 6, 1))


BLOCKS: dict[str, tuple[Callable[[int], nn.Module], Callable[[int], int]]] = {
    "convolution": (lambda c: nn.Conv2d(c, 6, 3, padding=1), lambda c: 6),
    "dilated": (lambda c: nn.Conv2d(c, 6, 3, padding=2, dilation=2, bias=False), lambda c: 6),
    "strided": (lambda c: nn.Conv2d(c, 8, 3, stride=2, padding=1, padding_mode="circular"), lambda c: 8),
    "pointwise": (lambda c: nn.Conv2d(c, 4, 1), lambda c: 4),
    "grouped": (lambda c: nn.Sequential(nn.Conv2d(c, 8, 1), nn.Conv2d(8, 4, 3, padding=1, groups=2)), lambda c: 4),
    "separable": (_separable, lambda c: 6),
    "residual": (lambda c: Residual(c, c), lambda c: c),
    "projection": (lambda c: Residual(c, 8, "projection"), lambda c: 8),
    "zero padding": (lambda c: Residual(c, c + 2, "zeros"), lambda c: c + 2),
    "pre-activation": (PreActivation, lambda c: c),
    "inception": (Inception, lambda c: c + 9),
    "excitation": (Excitation, lambda c: c),
    "batchnorm": (nn.BatchNorm2d, lambda c: c),
    "relu": (lambda c: nn.ReLU(inplace=True), lambda c: c),
    "leaky relu": (lambda c: nn.LeakyReLU(-0.3), lambda c: c),
    "prelu": (nn.PReLU, lambda c: c),
    "hardtanh": (lambda c: nn.Hardtanh(-0.5, 0.5), lambda c: c),
    "gelu": (lambda c: nn.GELU(), lambda c: c),
    "sigmoid": (lambda c: nn.Sigmoid(), lambda c: c),
    "max pooling": (lambda c: nn.MaxPool2d(3, 1, 1), lambda c: c),
    "average pooling": (lambda c: nn.AvgPool2d(2, 1, 1), lambda c: c),
    "upsampling": (lambda c: nn.Upsample(scale_factor=1.5, mode="bilinear"), lambda c: c),
    "padding": (lambda c: nn.ZeroPad2d(1), lambda c: c),
}


class Chain(nn.Module):
    """Blocks one after the other, and a linear layer on all pixels or on their mean."""

    def __init__(self, kinds: list[str], flat: bool) -> None:
        super().__init__()
        channels, blocks = 3, []
        for kind in kinds:
            make, after = BLOCKS[kind]
            blocks.append(make(channels))
            channels = after(channels)
        self.blocks, self.flat = nn.Sequential(*blocks), flat
        size = self.blocks.eval()(torch.zeros(1, *IMAGE)).shape
        self.head = nn.Linear(size[1:].numel() if flat else channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)
        return self.head(torch.flatten(x, 1) if self.flat else x.mean((2, 3)))
