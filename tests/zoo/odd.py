"""What is hard to trace: values that decide the way, layers called twice, sizes written out, several inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.registry import IMAGES, register


class Forward(nn.Module):
    """Layers by name, and a function of them and the inputs."""

    def __init__(self, run: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


class Branching(nn.Module):
    """Cannot be looked into, as it branches on values."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sin() if x.sum() > 0 else x.cos()


class Ways(nn.Module):
    """Which of two layers it calls depends on the values, and `torch.func` cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) if x.sum() > 0 else self.b(x)


class Aliased(nn.Module):
    """Holds modules under two names: as an attribute, and in the sequence that it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(4, 16, 3), nn.Linear(16, 3)
        self.net = nn.Sequential(self.conv, nn.ReLU(), nn.Conv1d(16, 16, 3), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.net(x).mean(2))
        return out


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 8), nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor, y: Tensor, scale: float = 2.0) -> dict[str, Any]:
        h = (self.a(x) + self.b(y)).relu()
        return {"logits": self.head(h) * scale, "inner": (h.mean(1), x)}


def _twice(layers: nn.Module, x: Tensor) -> Tensor:
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


def in_place() -> nn.Module:
    return Forward(_in_place, conv=nn.Conv2d(3, 8, 3), conv2=nn.Conv2d(8, 8, 3), head=nn.Conv2d(8, 2, 1))


def shared() -> nn.Module:
    return Forward(_twice, stem=nn.Linear(5, 6), twice=nn.Linear(6, 6), head=nn.Linear(6, 3))


def literal_sizes() -> nn.Module:
    return Forward(_sized, conv=nn.Conv2d(3, 8, 3), head=nn.Linear(128, 3))


def scaled() -> nn.Module:
    layers = {"conv": nn.Conv2d(3, 8, 3), "where": nn.Conv2d(8, 1, 1), "scale": nn.Linear(1, 1)}
    return Forward(_scaled, **layers, head=nn.Conv2d(8, 2, 3))


def opaque() -> nn.Sequential:
    before = [nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6)]
    return nn.Sequential(*before, Branching(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))


register("aliased", Aliased, (4, 9), tags=("classifier", "repair", "collapse"))
register("branching", Ways, (3,), tags=("classifier",))
register("in place", in_place, IMAGES, tags=("collapse",))
register("shared", shared, (5,), tags=("collapse",))
register("literal sizes", literal_sizes, IMAGES, tags=("collapse",))
register("scaled", scaled, IMAGES, tags=("collapse",))
register("opaque", opaque, (5,), tags=("collapse",))
register("two inputs", TwoInputs, (4,), (3,), tags=("collapse",))
