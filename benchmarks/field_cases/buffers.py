"""Buffers and attributes that forward passes in evaluation mode update are left as they were."""

from __future__ import annotations

import copy
import functools
from collections import deque
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
import torchmetrics
from torch import Tensor, nn, optim
from torch.ao.quantization import FakeQuantize
from torch.utils.data import DataLoader

from field_cases.trial import Kind
from reflow_lightning import SignalMonitor, calibrate, find_sparsity, measure_signal, prune
from reflow_lightning.calibration import check_drift
from reflow_lightning.cost import measure_cost


class Observer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.low.lerp_(x.detach().min(), 0.01)
        self.high.data.add_(x.detach().max())
        return x * (1 + 1e-3 * self.low.tanh())


class Attributes(nn.Module):
    """Counts, keeps, appends and replaces."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("replaced", torch.zeros(2))
        self.calls, self.last, self.seen = 0, None, []
        self.cache: dict[str, Any] = {}
        self.recent: deque[Any] = deque(maxlen=2)
        self.state = torch.zeros(4)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.last = x.detach().mean()
        self.seen.append(self.last)
        self.recent.append(self.calls)
        self.cache[str(self.calls)] = self.last
        self.state += self.last
        self.replaced = self.replaced + 1
        if self.calls == 1:
            self.register_buffer("new", torch.zeros(1))
        return x + 1e-3 * self.calls


class Metric(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mean, self.all = torchmetrics.MeanMetric(), torchmetrics.CatMetric()

    def forward(self, x: Tensor) -> Tensor:
        self.mean.update(x.detach())
        self.all.update(x.detach().mean())
        return x


KEEPERS: dict[str, Callable[[], nn.Module]] = {
    "an observer": Observer,
    "a fake quantizer of torch": FakeQuantize,
    "attributes": Attributes,
    "metrics": Metric,
}


def network(keeper: Callable[[], nn.Module]) -> nn.Sequential:
    torch.manual_seed(1)
    body = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), keeper(), nn.Flatten(), nn.Linear(288, 4)]
    return nn.Sequential(*body)


def images() -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randn(16, 3, 8, 8, generator=random) for _ in range(3)]


def labelled() -> list[Any]:
    return [(x, torch.arange(16) % 4) for x in images()]


def state(model: nn.Module) -> dict[str, Any]:
    """Everything that a model holds but its hooks, as a deep copy."""
    held = {f"{n}.{k}": v for n, m in model.named_modules() for k, v in vars(m).items() if "hook" not in k}
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return copy.deepcopy({k: v for k, v in held.items() if not k.endswith(("_modules", "_parameters"))} | named)


def repaired(repair: str, model: nn.Module) -> None:
    calibrate(model, images(), max_batches=3, repair=repair, reference=copy.deepcopy(model)).undo()


PASSES: dict[str, Callable[[nn.Module], Any]] = {
    "measure_signal": lambda m: measure_signal(m, images(), max_batches=3),
    "measure_signal with a reference": lambda m: measure_signal(m, images(), max_batches=3, reference=copy.deepcopy(m)),
    "check_drift": lambda m: check_drift(m, images()),
    **{f"calibrate {r} and undo": functools.partial(repaired, r) for r in ("batchnorm", "moments", "reconstruct")},
    **{c: lambda m, c=c: prune(m, 0.0, criterion=c, batches=labelled()) for c in ("wanda", "fisher", "snip")},
    "the allocation by entropy": lambda m: prune(m, 0.0, allocation="entropy", batches=images()),
    "find_sparsity and undo": lambda m: find_sparsity(m, images(), lambda n: 1.0, max_drop=0.5).undo(),
    "measure_cost": lambda m: measure_cost(m, images()[0][:1]),
}


def differing(before: dict[str, Any], after: dict[str, Any]) -> str:
    return ", ".join(sorted(k for k in before.keys() | after.keys() if not _same(before.get(k), after.get(k))))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple, deque)) and isinstance(b, (list, tuple, deque)):
        return len(a) == len(b) and all(map(_same, a, b))
    plain = type(a).__module__ in ("builtins", "collections") and not callable(a)
    return type(a) is type(b) and (a == b or not plain)


def attempt(keeper: Callable[[], nn.Module], run: Callable[[nn.Module], Any]) -> str:
    model = network(keeper)
    before = state(model)
    run(model)
    return differing(before, state(model))


class Task(pl.LightningModule):
    def __init__(self, keeper: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.net = network(keeper)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, _: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return optim.SGD(self.parameters(), 0.1)


def trained(keeper: Callable[[], nn.Module], *callbacks: pl.Callback) -> dict[str, Any]:
    module = Task(keeper)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    pl.Trainer(max_epochs=2, accelerator="cpu", callbacks=list(callbacks), logger=False, **quiet).fit(
        module, DataLoader(labelled(), batch_size=None)
    )
    return state(module.net)


def monitored(keeper: Callable[[], nn.Module]) -> str:
    return differing(trained(keeper), trained(keeper, Silent(1)))


class Silent(SignalMonitor):
    """Measures without a logger's file."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        self._logged = True


TRIALS = {
    f"{name} in {title}": functools.partial(attempt, keeper, run)
    for title, keeper in KEEPERS.items()
    for name, run in PASSES.items()
} | {f"SignalMonitor in {title}": functools.partial(monitored, keeper) for title, keeper in KEEPERS.items()}

KINDS = [
    Kind(
        "buffers",
        "what forward passes in evaluation mode update is left changed",
        f"{', '.join(KEEPERS)}, each in {', '.join(PASSES)}, SignalMonitor",
        TRIALS,
    )
]
