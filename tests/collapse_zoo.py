"""Small networks of every kind that a collapse must do justice to."""

from __future__ import annotations

from collections.abc import Callable

import torch
from collapse_blocks import (
    IMAGE,
    Branching,
    Excitation,
    Forward,
    Inception,
    Mixer,
    PreActivation,
    Residual,
    TwoInputs,
)
from collapse_helpers import Inputs, shake
from torch import Tensor, nn
from torch.nn import functional

from reflow_lightning.experiments.models.vit import VisionTransformer


def _norm(channels: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels), nn.ReLU()]


def _tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    model[2].weight = model[0].weight
    return model


def _shared(layers: nn.Module, x: Tensor) -> Tensor:
    x = layers.stem(x).relu()
    return layers.head(layers.twice(layers.twice(x).relu()).relu())


def _sized(layers: nn.Module, x: Tensor) -> Tensor:
    x = layers.conv(x).relu()
    return layers.head(x.view(-1, 8 * 4 * 4))


def _in_place(layers: nn.Module, x: Tensor) -> Tensor:
    x = layers.conv(x)
    x.mul_(2.0).relu_()
    x += 1
    return layers.head(functional.dropout(functional.leaky_relu_(layers.conv2(x), 0.1), training=layers.training))


def _scaled(layers: nn.Module, x: Tensor) -> Tensor:
    x = layers.conv(x) * layers.scale.weight.sum()
    return layers.head((x * torch.sigmoid(layers.where(x))).relu())


VECTOR = (5,)
ZOO: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 3)), (VECTOR,)),
    "normed mlp": (
        lambda: nn.Sequential(
            nn.Linear(5, 9), nn.BatchNorm1d(9), nn.Tanh(), nn.Linear(9, 7), nn.SELU(), nn.Linear(7, 3)
        ),
        (VECTOR,),
    ),
    "flattened": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            *_norm(8),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(72, 6),
            nn.ReLU(),
            nn.Linear(6, 4),
        ),
        (IMAGE,),
    ),
    "pooled": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3),
            *_norm(8),
            nn.Conv2d(8, 6, 3, padding=1, padding_mode="reflect"),
            nn.ReLU6(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(),
            nn.Linear(6, 4),
        ),
        (IMAGE,),
    ),
    "residual": (
        lambda: nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), Residual(5, 5), Residual(5, 5), nn.Conv2d(5, 2, 3)),
        (IMAGE,),
    ),
    "projection": (
        lambda: nn.Sequential(nn.Conv2d(3, 5, 3), Residual(5, 8, "projection", 2), Residual(8, 8), nn.Conv2d(8, 2, 1)),
        (IMAGE,),
    ),
    "zero padding": (
        lambda: nn.Sequential(nn.Conv2d(3, 5, 3), Residual(5, 8, "zeros", 2), Residual(8, 8), nn.Conv2d(8, 2, 1)),
        (IMAGE,),
    ),
    "bottleneck": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 1, bias=False),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 4, 3, padding=1),
            *_norm(4),
            nn.Conv2d(4, 12, 1),
            *_norm(12),
            nn.Conv2d(12, 2, 1),
        ),
        (IMAGE,),
    ),
    "depthwise": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 1),
            *_norm(8),
            nn.Conv2d(8, 8, 3, 2, 1, groups=8, bias=False),
            *_norm(8),
            nn.Conv2d(8, 16, 3, groups=8),
            nn.Hardswish(),
            nn.Conv2d(16, 3, 1),
        ),
        (IMAGE,),
    ),
    "grouped": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 1), *_norm(8), nn.Conv2d(8, 12, 3, padding=1, groups=4), *_norm(12), nn.Conv2d(12, 3, 1)
        ),
        (IMAGE,),
    ),
    "concatenation": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), Inception(4), nn.BatchNorm2d(13), Inception(13), nn.Conv2d(22, 2, 1)),
        (IMAGE,),
    ),
    "excitation": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), Excitation(8), nn.Conv2d(8, 4, 3)), (IMAGE,)),
    "pre-activation": (
        lambda: nn.Sequential(nn.Conv2d(3, 5, 3), PreActivation(5), PreActivation(5), *_norm(5), nn.Conv2d(5, 2, 1)),
        (IMAGE,),
    ),
    "transformer": (lambda: VisionTransformer(6, 3, num_classes=4, width=8, depth=1, heads=2), (IMAGE,)),
    "mixer": (Mixer, ((5, 3),)),
    "1d": (
        lambda: nn.Sequential(
            nn.Conv1d(3, 6, 3, padding=2, dilation=2),
            nn.BatchNorm1d(6),
            nn.PReLU(6),
            nn.Conv1d(6, 6, 3, stride=2),
            nn.ELU(),
            nn.AvgPool1d(2),
            nn.Flatten(),
            nn.Linear(12, 3),
        ),
        ((3, 11),),
    ),
    "3d": (
        lambda: nn.Sequential(nn.Conv3d(3, 6, 3, padding=1), nn.BatchNorm3d(6), nn.LeakyReLU(0.2), nn.Conv3d(6, 2, 2)),
        ((3, 4, 4, 4),),
    ),
    "linear chain": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3, 2), nn.Conv2d(4, 3, 1, bias=False), nn.Conv2d(3, 3, 2, padding=1)
        ),
        (IMAGE,),
    ),
    "in place": (
        lambda: Forward(_in_place, conv=nn.Conv2d(3, 8, 3), conv2=nn.Conv2d(8, 8, 3), head=nn.Conv2d(8, 2, 1)),
        (IMAGE,),
    ),
    "shared": (lambda: Forward(_shared, stem=nn.Linear(5, 6), twice=nn.Linear(6, 6), head=nn.Linear(6, 3)), (VECTOR,)),
    "tied": (_tied, ((6,),)),
    "literal sizes": (lambda: Forward(_sized, conv=nn.Conv2d(3, 8, 3), head=nn.Linear(128, 3)), (IMAGE,)),
    "scaled": (
        lambda: Forward(
            _scaled, conv=nn.Conv2d(3, 8, 3), where=nn.Conv2d(8, 1, 1), scale=nn.Linear(1, 1), head=nn.Conv2d(8, 2, 3)
        ),
        (IMAGE,),
    ),
    "opaque": (
        lambda: nn.Sequential(
            nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), Branching(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)
        ),
        (VECTOR,),
    ),
    "weight norm": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(5, 8)), nn.ReLU(), nn.Linear(8, 2)),
        (VECTOR,),
    ),
    "two inputs": (TwoInputs, ((4,), (3,))),
}


def build(name: str, seed: int = 0) -> nn.Module:
    """A network of the zoo in eval mode, with BatchNorm statistics other than those of a fresh one."""
    torch.manual_seed(seed)
    model = ZOO[name][0]()
    shake(model)
    return model.eval()


def inputs_for(name: str, samples: int = 2, seed: int = 1) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(samples, *shape, generator=generator) for shape in ZOO[name][1])
