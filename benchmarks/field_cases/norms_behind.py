"""BatchNorm layers behind layers that are matched by their moments, such as a predictor behind a projector."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from field_cases.trial import Kind
from reflow_lightning import calibrate, prune


def head(width: int = 32, last: nn.Module | None = None) -> list[nn.Module]:
    return [nn.Linear(width, 64), nn.BatchNorm1d(64), nn.ReLU(), last or nn.Linear(64, 32)]


class Squeeze(nn.Module):
    """Scales channels by what two layers without a norm make of their means."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 32), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class Twice(nn.Module):
    """Calls its network on two views."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) + self.net(x.flip(0) + 0.1)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "a projector and a predictor": lambda: nn.Sequential(*head(), *head()),
    "three heads": lambda: nn.Sequential(*head(), *head(), *head()),
    "called twice": lambda: Twice(nn.Sequential(*head(), *head())),
    "a norm that is not affine": lambda: nn.Sequential(
        *head(), nn.Linear(32, 64), nn.ReLU(), nn.BatchNorm1d(64, affine=False), nn.Linear(64, 32)
    ),
    "behind a rectifier": lambda: nn.Sequential(
        nn.Linear(32, 64), nn.ReLU(), nn.BatchNorm1d(64), nn.Linear(64, 64), nn.ReLU(), nn.BatchNorm1d(64), *head(64)
    ),
    "behind a LayerNorm": lambda: nn.Sequential(nn.Linear(32, 32), nn.LayerNorm(32), nn.GELU(), *head(), *head()),
    "squeezed": lambda: nn.Sequential(*head(), Squeeze(), *head(), Squeeze(), *head()),
    "convolutions": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 16)),
        nn.Conv1d(2, 32, 3),
        nn.ReLU(),
        nn.BatchNorm1d(32),
        nn.Conv1d(32, 32, 3),
        nn.ReLU(),
        nn.BatchNorm1d(32),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        *head(),
    ),
}


def far_off(make: Callable[[], nn.Module], sparsity: float) -> str:
    """How far the outputs' mean and standard deviation are from the dense network's, if by more than a quarter."""
    torch.manual_seed(0)
    model, mix = make(), torch.randn(32, 32)
    batches = [torch.randn(128, 32) @ mix + 1 for _ in range(4)]
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for step in range(40):
        optimizer.zero_grad()
        (model(batches[step % 4]) - batches[step % 4].sum(1, keepdim=True) / 30).square().mean().backward()
        optimizer.step()
    dense = copy.deepcopy(model.eval())
    prune(model, sparsity)
    calibrate(model, batches, reference=dense, max_batches=4)
    calibrate(dense, batches, repair="batchnorm", max_batches=4)  # as which it is compared with
    with torch.no_grad():
        found, expected = (torch.cat([network(batch) for batch in batches]) for network in (model, dense))
    scale = expected.square().mean().sqrt()
    mean = float((found.mean(0) - expected.mean(0)).square().mean().sqrt() / scale)
    std = float((found.std(0) - expected.std(0)).square().mean().sqrt() / scale)
    return "" if max(mean, std) < 0.25 else f"means off by {mean:.0%} of the signal, standard deviations by {std:.0%}"


KINDS = [
    Kind(
        "norms_behind",
        "The default repair matches layers behind a BatchNorm layer whose inputs it has just changed",
        "a projector and a predictor, three heads, called twice, without affine parameters, behind a rectifier, behind "
        "a LayerNorm, squeeze and excitation, convolutions; at three sparsities",
        {f"{name}, {s}": partial(far_off, make, s) for name, make in NETWORKS.items() for s in (0.5, 0.7, 0.8)},
    )
]
