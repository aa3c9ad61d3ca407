"""Building blocks of random networks that are collapsed, and chains of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from zoo.registry import IMAGES
from zoo.residual import Excitation, Inception, PreActivation, Residual


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
    "transposed": (lambda c: nn.ConvTranspose2d(c, 6, 3, stride=2, padding=1, output_padding=1), lambda c: 6),
    "transposed, dilated": (lambda c: nn.ConvTranspose2d(c, 5, 2, padding=1, dilation=2, bias=False), lambda c: 5),
    "transposed, pointwise": (lambda c: nn.ConvTranspose2d(c, 4, 1), lambda c: 4),
    "transposed, grouped": (
        lambda c: nn.Sequential(nn.Conv2d(c, 8, 1), nn.ConvTranspose2d(8, 4, 2, stride=2, groups=2)),
        lambda c: 4,
    ),
    "transposed, depthwise": (lambda c: nn.ConvTranspose2d(c, c, 4, 2, 1, groups=c, bias=False), lambda c: c),
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
        size = self.blocks.eval()(torch.zeros(1, *IMAGES)).shape
        self.head = nn.Linear(size[1:].numel() if flat else channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)
        return self.head(torch.flatten(x, 1) if self.flat else x.mean((2, 3)))
