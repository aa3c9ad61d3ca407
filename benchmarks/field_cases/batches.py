"""Batches are left as they are, are of any type, and are what every network is compared on."""

from __future__ import annotations

import copy
import threading
import warnings
from collections import UserDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor, nn, optim
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils.data import DataLoader

from field_cases.trial import Kind
from reflow_lightning import OneShot, Reflow, SignalMonitor, calibrate, find_sparsity, measure_signal, prune
from reflow_lightning.calibration import check_drift
from reflow_lightning.running.batches import move
from reflow_lightning.signal.entropy import measure_entropy

QUIET: dict[str, Any] = {
    **dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False),
    "accelerator": "cpu",
}


@dataclass
class Data:
    x: Any
    y: Any


@dataclass(frozen=True)
class Frozen:
    x: Any
    y: Any


class Graph:
    """Moves in place and returns nothing, as many do."""

    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y = x, y
        self.lock = None

    def to(self, device: Any) -> None:
        self.x, self.y = self.x.to(device), self.y.to(device)


class Slots:
    __slots__ = ("x", "y")

    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y = x, y


class Locked(Graph):
    """Can't be copied as a whole."""

    def __init__(self, x: Any, y: Any) -> None:
        super().__init__(x, y)
        self.lock = threading.Lock()


class Named(Tensor):
    """Refuses slices that it does not understand, as tensors with metadata do."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__getitem__ and args[0].ndim == 2:
            raise ValueError("inconsistent metadata")
        return super().__torch_function__(func, types, args, kwargs or {})


Pair = namedtuple("Pair", "x y")
MAKERS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tuple": lambda x, y: (x, y),
    "list": lambda x, y: [x, y],
    "dict": lambda x, y: {"x": x, "y": y},
    "user dict": lambda x, y: UserDict(x=x, y=y),
    "named tuple": Pair,
    "dataclass": Data,
    "frozen dataclass": Frozen,
    "nested": lambda x, y: {"deep": [Data((x,), y)]},
    "graph": Graph,
    "slots": Slots,
    "with a lock": Locked,
    "subclass": lambda x, y: (x.as_subclass(Named), y),
    "array": lambda x, y: {"x": x.numpy(), "y": y},
    "packed": lambda x, y: {"x": pack_sequence(list(x[:, None])), "y": y},
    "view of data": lambda x, y: (x[::2], y[::2]),
    "the same twice": lambda x, y: {"x": x, "y": y, "target": x},
}


def inside(batch: Any) -> tuple[Any, Any]:
    if isinstance(batch, dict) and "deep" in batch:
        return batch["deep"][0].x[0], batch["deep"][0].y
    if isinstance(batch, (tuple, list)):
        return batch[0], batch[1]
    return (batch["x"], batch["y"]) if hasattr(batch, "keys") else (batch.x, batch.y)


def forward(model: nn.Module, batch: Any) -> Any:
    """Changes all that it gets, as careless code does."""
    x, y = inside(batch)
    x = torch.from_numpy(x) if isinstance(x, np.ndarray) else x
    x = x.data if isinstance(x, PackedSequence) else x
    y.fill_(0)
    out = model(x.div_(255))
    for clear in ("clear", "popitem"):
        if isinstance(batch, (dict, list, UserDict)) and len(batch) and hasattr(batch, clear):
            getattr(batch, clear)()
    return out


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def batches(make: Callable[[Tensor, Tensor], Any]) -> list[Any]:
    draws = torch.Generator().manual_seed(0)
    return [make(torch.rand(16, 4, generator=draws) * 255, torch.arange(16) % 2) for _ in range(3)]


def loss(output: Any, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(output, inside(batch)[1][: len(output)])


PASSES: dict[str, Callable[[nn.Module, Any], Any]] = {
    "measure_signal": lambda m, b: measure_signal(m, b, reference=copy.deepcopy(m), max_batches=3, forward=forward),
    "measure_entropy": lambda m, b: measure_entropy(m, b, max_batches=3, forward=forward),
    "check_drift": lambda m, b: check_drift(m, b, forward, 3),
    **{
        r: lambda m, b, r=r: calibrate(m, b, repair=r, reference=copy.deepcopy(m), max_batches=3, forward=forward)
        for r in ("auto", "batchnorm", "moments", "reconstruct")
    },
    "wanda": lambda m, b: prune(m, 0.0, criterion="wanda", batches=b, max_batches=3, forward=forward),
    "the allocation by entropy": lambda m, b: prune(m, 0.0, allocation="entropy", batches=b, forward=forward),
    "find_sparsity": lambda m, b: find_sparsity(m, b, lambda n: 1.0, coarse=(0.5,), tolerance=0.5, forward=forward),
    "Reflow.apply": lambda m, b: Reflow(0.0, forward=forward).apply(m, b),
}


def left_alone(make: Callable[[Tensor, Tensor], Any]) -> str:
    given, wanted, changed = batches(make), batches(make), []
    for name, run in PASSES.items():
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            run(network(), given)
        named = any("can't be copied" in str(warning.message) for warning in told)
        same = all(map(_same, map(inside, given), map(inside, wanted)))
        if not same or (make is Locked and not named):
            changed.append(name)
    return ", ".join(changed)


def _same(given: Any, wanted: Any) -> bool:
    parts = [
        [v.data if isinstance(v, PackedSequence) else torch.as_tensor(v) for v in part] for part in (given, wanted)
    ]
    return all(bool((a.as_subclass(Tensor) == b.as_subclass(Tensor)).all()) for a, b in zip(*parts, strict=True))


def moved_as_lightning_does(make: Callable[[Tensor, Tensor], Any]) -> str:
    ours, theirs = (inside(f(batches(make)[0], torch.device("meta"))) for f in (move, move_data_to_device))
    devices = [[str(getattr(v, "device", "none")) for v in part] for part in (ours, theirs)]
    return "" if devices[0] == devices[1] else str(devices)


class Task(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.seen = network(), []

    def forward(self, x: Tensor) -> Any:
        return self.net(x)

    def training_step(self, batch: Any) -> Tensor:
        x, y = inside(batch)
        self.seen.append((float(x.sum()), int(y.sum())))
        return nn.functional.cross_entropy(forward(self, batch), torch.arange(len(x)) % 2)

    def configure_optimizers(self) -> Any:
        return optim.SGD(self.parameters(), 0.1)


class Silent(SignalMonitor):
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        self._logged = True


def trained_on(make: Callable[[Tensor, Tensor], Any], **reflow: Any) -> str:
    found = []
    for with_it in (False, True):
        module, monitor = Task(), Silent(1, forward=forward)
        callbacks = [Reflow(0.0, schedule=OneShot(step=2), repair="none", forward=forward, **reflow), monitor]
        data = [copy.copy(batch) for batch in batches(make)]
        trainer = pl.Trainer(max_epochs=1, callbacks=callbacks * with_it, **QUIET)
        trainer.fit(module, DataLoader(data, batch_size=None, collate_fn=lambda batch: batch))
        found.append((module.seen, [p.sum().item() for p in module.parameters()]))
    return "" if found[0] == found[1] else f"{found[0][0]} without, {found[1][0]} with"


MOVED = {name: make for name, make in MAKERS.items() if name not in ("packed", "array", "frozen dataclass")}
TRAINED = {name: MAKERS[name] for name in ("tuple", "dict", "dataclass", "graph", "with a lock")}
KINDS = [
    Kind(
        "batches",
        "a forward pass beside the training changes its batch",
        f"{', '.join(MAKERS)}, each in {', '.join(PASSES)}; moved as Lightning does; trainings",
        {f"batches as {name}": partial(left_alone, make) for name, make in MAKERS.items()}
        | {f"{name} moved": partial(moved_as_lightning_does, make) for name, make in MOVED.items()}
        | {f"trained on {name}": partial(trained_on, make) for name, make in TRAINED.items()}
        | {
            "trained on recent ones": partial(
                trained_on, MAKERS["dict"], calibration_data="recent", criterion="wanda", calibration_batches=2
            )
        },
    ),
]
