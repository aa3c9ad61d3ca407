"""The drift check on the very loader of a training, and on loaders with a mistake."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from field_cases.trial import Kind, Trial
from reflow_lightning.calibration import check_drift

DIGITS = load_digits()
IMAGES, LABELS = torch.tensor(DIGITS.images, dtype=torch.float32)[:, None] / 8 - 1, torch.tensor(DIGITS.target)
Batches = list[tuple[Tensor, Tensor]]


def batches(seed: int, then: Callable[[Tensor], Tensor] = lambda x: x, only: int = 9, order: bool = False) -> Batches:
    """Shuffled batches; with a transform, of the first labels only, or sorted by label."""
    chosen = torch.randperm(len(LABELS), generator=torch.Generator().manual_seed(seed))
    chosen = chosen[LABELS[chosen] <= only]
    chosen = chosen[LABELS[chosen].argsort(stable=True)] if order else chosen
    return [(then(IMAGES[part]), LABELS[part]) for part in chosen.split(64) if len(part) == 64]


class DropPath(nn.Module):
    """Leaves its branch out for half of the samples, in training."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        """The input and the branch."""
        kept = 2.0 * (torch.rand(len(x), 1, 1, 1) < 0.5) if self.training else 1.0
        return x + kept * self.branch(x)


def network(momentum: float | None = 0.1, early: Any = None, middle: Any = None) -> nn.Sequential:
    """Two convolutions with BatchNorm, and a module before the first norm or between both."""
    first, last = nn.BatchNorm2d(16, momentum=momentum), nn.BatchNorm2d(16, momentum=momentum)
    layers = [nn.Conv2d(1, 16, 3, padding=1), early, first, nn.ReLU(), middle, nn.Conv2d(16, 16, 3, 2, 1), last]
    return nn.Sequential(*filter(None, layers), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10))


def trained(model: nn.Module, epochs: int = 5, few: int = 99, average: AveragedModel | None = None) -> nn.Module:
    """A network after a short training; its average, if there is one."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for epoch in range(epochs):
        for images, labels in batches(epoch)[:few]:
            optimizer.zero_grad()
            functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
            if average is not None:
                average.update_parameters(model)
    return model if average is None else average.module


def quiet(make: Callable[[], nn.Module]) -> Trial:
    """The training loader is left in peace."""

    def trial() -> str:
        torch.manual_seed(0)
        report = check_drift(make(), batches(99))
        return str(report) if report.drifted or report.causes else ""

    return trial


def averaged(decay: float | None, buffers: bool) -> Callable[[], nn.Module]:
    """A network whose weights are averaged, exponentially or equally, and maybe its statistics."""

    def make() -> nn.Module:
        model = network()
        rule = None if decay is None else get_ema_multi_avg_fn(decay)
        return trained(model, average=AveragedModel(model, multi_avg_fn=rule, use_buffers=buffers))

    return make


QUIET = {
    **{f"momentum {m}": quiet(lambda m=m: trained(network(m))) for m in (0.3, 0.03, 0.01, 0.003, None)},
    **{f"dropout {p}": quiet(lambda p=p: trained(network(middle=nn.Dropout(p)))) for p in (0.1, 0.5)},
    "dropout of channels": quiet(lambda: trained(network(middle=nn.Dropout2d(0.5)))),
    "dropout before the first norm": quiet(lambda: trained(network(early=nn.Dropout(0.5)))),
    "a dropped path": quiet(lambda: trained(network(middle=DropPath(nn.Conv2d(16, 16, 3, padding=1))))),
    "dropout and a small momentum": quiet(lambda: trained(network(0.01, middle=nn.Dropout2d(0.5)))),
    "averaged weights": quiet(averaged(0.99, buffers=False)),
    "averaged weights and statistics": quiet(averaged(0.99, buffers=True)),
    "equally averaged weights": quiet(averaged(None, buffers=False)),
    **{f"{n} batches": quiet(lambda n=n: trained(network(0.01), epochs=1, few=n)) for n in (1, 5, 20)},
}

_KEPT: list[nn.Module] = []


def models() -> Iterator[nn.Module]:
    """A network with the usual momentum, and one that still remembers where it began."""
    if not _KEPT:
        torch.manual_seed(0)
        _KEPT.extend(trained(network(m)) for m in (0.1, 0.01))
    yield from map(copy.deepcopy, _KEPT)


def finds(cause: str, **mistake: Any) -> Trial:
    """A mistake is found in both, and named."""

    def trial() -> str:
        reports = [check_drift(model, batches(99, **mistake)) for model in models()]
        return "; ".join(str(report) for report in reports if not report.drifted or cause not in report.causes[0])

    return trial


FOUND = {
    "pixels in 0..1": finds("not normalised", then=lambda x: (x + 1) / 2),
    "pixels in 0..255": finds("pixels in 0..255", then=lambda x: 128 * (x + 1)),
    "one class": finds("one class only", only=0),
    "two classes": finds("skewed data", only=1),
    "sorted": finds("class", order=True),
}

KINDS = [
    Kind("drift-quiet", "the drift check warns of the training loader", "momenta, dropout, averages, few steps", QUIET),
    Kind("drift-found", "a mistake in a loader is not found", "normalisation, classes, order", FOUND),
]
