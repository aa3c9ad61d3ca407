"""Linear layers, one after the other."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.registry import ROWS, register


def mlp(*between: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), *between, nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


class Repeated(nn.Module):
    """One layer, called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = torch.relu(self.layer(x))
        return self.head(x)


def small_mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 3))


def normed_mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 9), nn.BatchNorm1d(9), nn.Tanh(), nn.Linear(9, 7), nn.SELU(), nn.Linear(7, 3))


def tied() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    model[2].weight = model[0].weight
    return model


def weight_norm() -> nn.Sequential:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(5, 8)), nn.ReLU(), nn.Linear(8, 2))


register("mlp", mlp, ROWS, tags=("repair", "feed forward"))
register("layernorm", lambda: mlp(nn.LayerNorm(16)), ROWS, tags=("repair", "feed forward"))
register("rmsnorm", lambda: mlp(nn.RMSNorm(16)), ROWS, tags=("repair", "feed forward"))
register("batchnorm_of_rows", lambda: mlp(nn.BatchNorm1d(16)), ROWS, tags=("repair",))
register("repeated", Repeated, ROWS, tags=("repair",))
register("small mlp", small_mlp, (5,), tags=("collapse",))
register("normed mlp", normed_mlp, (5,), tags=("collapse",))
register("tied", tied, (6,), tags=("collapse",))
register("weight norm", weight_norm, (5,), tags=("collapse",))
