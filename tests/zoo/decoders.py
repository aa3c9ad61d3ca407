"""Networks that make images larger: transposed convolutions, and norms that are written in a forward pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.registry import IMAGES, ROWS, register


class ActNorm(nn.BatchNorm2d):
    """A BatchNorm layer with an activation in it, whose forward pass is its own, as in many collections of models."""

    def forward(self, x: Tensor) -> Tensor:
        torch._assert(x.ndim == 4, "expected images")
        mean, variance = self.running_mean, self.running_var
        x = functional.batch_norm(x, mean, variance, self.weight, self.bias, self.training, self.momentum, self.eps)
        return functional.leaky_relu(x, 0.2)


class NamedNorm(nn.Module):
    """The same without torch's class, and with other names."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.rand(channels))
        self.register_buffer("centre", torch.randn(channels))
        self.register_buffer("spread", torch.rand(channels) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return functional.batch_norm(x, self.centre, self.spread, weight=self.gain, eps=1e-3).relu()


class Up(nn.Module):
    """A transposed convolution that is called as a function."""

    def __init__(self, ins: int, outs: int, groups: int = 1) -> None:
        super().__init__()
        self.kernel = nn.Parameter(0.2 * torch.randn(ins, outs // groups, 4, 4))
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv_transpose2d(x, self.kernel, None, 2, padding=1, groups=self.groups)


class Generator(nn.Module):
    """From rows to images, as in a GAN."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Linear(8, 8 * 4)
        self.layers = nn.Sequential(
            nn.BatchNorm2d(8),
            nn.ReLU(True),
            nn.ConvTranspose2d(8, 8, 4, 2, 1, bias=False),
            ActNorm(8),
            Up(8, 6),
            NamedNorm(6),
            nn.ConvTranspose2d(6, 3, 3, padding=1),
            nn.Tanh(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.start(x).view(-1, 8, 2, 2))


class UNet(nn.Module):
    """Down and up again, with a shortcut that is concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), ActNorm(6))
        self.down = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, padding=1, bias=False), NamedNorm(8))
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.last = nn.Sequential(nn.Conv2d(12, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        return self.last(torch.cat([self.up(self.down(first)), first], 1))


register("generator", Generator, ROWS, tags=("collapse",))
register("u-net", UNet, IMAGES, tags=("collapse",))
