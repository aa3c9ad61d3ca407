"""Shortcuts, and branches side by side."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.convolutional import norm
from zoo.registry import IMAGES, register


class Preactivation(nn.Module):
    """A residual network whose BatchNorm layers follow additions, not convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm1, self.conv1 = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm3, self.head = nn.BatchNorm2d(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.conv1(torch.relu(self.norm1(x)))
        x = x + self.conv2(torch.relu(self.norm2(x)))
        return self.head(torch.relu(self.norm3(x)).mean((2, 3)))


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


def residual() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), Residual(5, 5), Residual(5, 5), nn.Conv2d(5, 2, 3))


def projection() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 5, 3), Residual(5, 8, "projection", 2), Residual(8, 8), nn.Conv2d(8, 2, 1))


def zero_padding() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 5, 3), Residual(5, 8, "zeros", 2), Residual(8, 8), nn.Conv2d(8, 2, 1))


def concatenation() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), Inception(4), nn.BatchNorm2d(13), Inception(13), nn.Conv2d(22, 2, 1))


def excitation() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), Excitation(8), nn.Conv2d(8, 4, 3))


def pre_activation() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 5, 3), PreActivation(5), PreActivation(5), *norm(5), nn.Conv2d(5, 2, 1))


register("preactivation", Preactivation, IMAGES, tags=("repair", "feed forward"))
register("residual", residual, IMAGES, tags=("collapse",))
register("projection", projection, IMAGES, tags=("collapse",))
register("zero padding", zero_padding, IMAGES, tags=("collapse",))
register("concatenation", concatenation, IMAGES, tags=("collapse",))
register("excitation", excitation, IMAGES, tags=("collapse",))
register("pre-activation", pre_activation, IMAGES, tags=("collapse",))
