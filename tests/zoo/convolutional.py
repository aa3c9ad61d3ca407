"""Convolutions without shortcuts."""

from __future__ import annotations

from typing import Any

from torch import nn

from zoo.registry import IMAGES, register


def small_net() -> nn.Sequential:
    """Convolution and linear layers with every kind of module that must not be pruned."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


def uneven() -> nn.Sequential:
    """Layers of 8, 5, 1 and 3 rows, which 2 or 3 processes cannot share out evenly."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 5, 3, padding=1),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 1),
        nn.Linear(1, 3),
    )


def convolutions(*between: nn.Module, **options: Any) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, **options),
        *between,
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, groups=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


def norm(channels: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels), nn.ReLU()]


def flattened() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        *norm(8),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(72, 6),
        nn.ReLU(),
        nn.Linear(6, 4),
    )


def pooled() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        *norm(8),
        nn.Conv2d(8, 6, 3, padding=1, padding_mode="reflect"),
        nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(6, 4),
    )


def bottleneck() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 1, bias=False),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 3, padding=1),
        *norm(4),
        nn.Conv2d(4, 12, 1),
        *norm(12),
        nn.Conv2d(12, 2, 1),
    )


def depthwise() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 1),
        *norm(8),
        nn.Conv2d(8, 8, 3, 2, 1, groups=8, bias=False),
        *norm(8),
        nn.Conv2d(8, 16, 3, groups=8),
        nn.Hardswish(),
        nn.Conv2d(16, 3, 1),
    )


def grouped() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 1), *norm(8), nn.Conv2d(8, 12, 3, padding=1, groups=4), *norm(12), nn.Conv2d(12, 3, 1)
    )


def of_sequences() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(3, 6, 3, padding=2, dilation=2),
        nn.BatchNorm1d(6),
        nn.PReLU(6),
        nn.Conv1d(6, 6, 3, stride=2),
        nn.ELU(),
        nn.AvgPool1d(2),
        nn.Flatten(),
        nn.Linear(12, 3),
    )


def of_volumes() -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(3, 6, 3, padding=1), nn.BatchNorm3d(6), nn.LeakyReLU(0.2), nn.Conv3d(6, 2, 2))


def linear_chain() -> nn.Sequential:
    """Nothing but convolutions, so that they could be merged into one."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3, 2), nn.Conv2d(4, 3, 1, bias=False), nn.Conv2d(3, 3, 2, padding=1)
    )


register("small_net", small_net, (1, 6, 6), tags=("classifier",))
register("uneven", uneven, (1, 6, 6), tags=("sharded",))
register("convolutions", convolutions, IMAGES, tags=("repair", "feed forward"))
register("groupnorm", lambda: convolutions(nn.GroupNorm(2, 8)), IMAGES, tags=("repair", "feed forward"))
register("batchnorm", lambda: convolutions(nn.BatchNorm2d(8), bias=False), IMAGES, tags=("repair", "feed forward"))
register("transposed", lambda: convolutions(nn.ConvTranspose2d(8, 8, 3)), IMAGES, tags=("repair", "feed forward"))
register("flattened", flattened, IMAGES, tags=("collapse",))
register("pooled", pooled, IMAGES, tags=("collapse",))
register("bottleneck", bottleneck, IMAGES, tags=("collapse",))
register("depthwise", depthwise, IMAGES, tags=("collapse",))
register("grouped", grouped, IMAGES, tags=("collapse",))
register("1d", of_sequences, (3, 11), tags=("collapse",))
register("3d", of_volumes, (3, 4, 4, 4), tags=("collapse",))
register("linear chain", linear_chain, IMAGES, tags=("collapse",))
