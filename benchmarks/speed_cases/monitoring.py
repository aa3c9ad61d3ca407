"""What watching the signal costs in a training, and at its prune events."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18

from reflow_lightning import Gradual, Reflow, SignalMonitor
from reflow_lightning.signal.measure import Profile
from speed_cases.row import row

TITLE = "Monitoring a training"
SAMPLES = 16


class Module(pl.LightningModule):
    """A classifier in training; it counts no metrics."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> Any:
        """The network's answer."""
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Cross-entropy."""
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        """Plain gradient descent."""
        return torch.optim.SGD(self.parameters(), 0.01)


def mlp() -> nn.Module:
    """Ten small layers, in which nothing but Python takes time."""
    layers = [layer for _ in range(10) for layer in (nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(16, 3))


def small_resnet() -> nn.Module:
    """ResNet-18 for small images."""
    return resnet18(num_classes=10)


class Nowhere(pl.loggers.Logger):
    """Takes what is logged and keeps nothing, so that no file is timed."""

    name = version = "nowhere"

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Nothing."""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing."""


def fit(net: Callable[[], nn.Module], shape: tuple[int, ...], steps: int, *callbacks: pl.Callback) -> None:
    """Train a fresh network on random data."""
    samples = SAMPLES * 15
    data = DataLoader(TensorDataset(torch.randn(samples, *shape), torch.randint(3, (samples,))), SAMPLES, shuffle=True)
    quiet = {"enable_progress_bar": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = pl.Trainer(
        max_steps=steps, logger=Nowhere(), callbacks=list(callbacks), accelerator="cpu", devices=1, **quiet
    )
    trainer.fit(Module(net()), data)


class Timed:
    """Seconds spent in methods, whoever calls them."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    @contextmanager
    def within(self, kind: type, *methods: str) -> Iterator[None]:
        """Time the methods of a class during the block; those that call each other are timed once."""
        depth = 0

        def timed(method: Any) -> Any:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal depth
                depth += 1
                start = time.perf_counter()
                try:
                    return method(*args, **kwargs)
                finally:
                    depth -= 1
                    if not depth:
                        self.seconds.append(time.perf_counter() - start)

            return call

        before = {name: getattr(kind, name) for name in methods}
        for name, method in before.items():
            setattr(kind, name, timed(method))
        try:
            yield
        finally:
            for name, method in before.items():
                setattr(kind, name, method)


def rows() -> list[dict[str, Any]]:
    """Curves in a training, events, and both."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    networks: tuple[tuple[str, Callable[[], nn.Module], tuple[int, ...], int], ...] = (
        ("10-layer MLP", mlp, (16,), 501),
        ("ResNet-18, 32 x 32 px", small_resnet, (3, 32, 32), 101),
    )
    return [line for network in networks for line in (_curves(*network), _events(*network))]


def _curves(name: str, net: Callable[[], nn.Module], shape: tuple[int, ...], steps: int) -> dict[str, Any]:
    timed, start = Timed(), time.perf_counter()
    with timed.within(SignalMonitor, "on_train_batch_start", "on_train_batch_end"):
        fit(net, shape, 1, SignalMonitor(metrics=("variance",)))  # imports, and all else that is done once
        first, begun = sum(timed.seconds), time.perf_counter()
        timed.seconds.clear()
        fit(net, shape, steps, SignalMonitor(metrics=("variance",)))
    spent, rest = sum(timed.seconds), time.perf_counter() - begun - sum(timed.seconds)
    learned, later = sorted(timed.seconds)[-1], sum(timed.seconds) - sorted(timed.seconds)[-1]
    share = later / rest
    return row(
        f"{name}: curves of the variance every 50 steps, {steps} steps",
        f"{1000 * spent:.0f} ms",
        f"{100 * share:.1f} %",
        f"the training without them {rest:.2f} s",
        f"{1000 * rest / steps / 3:.1f} ms a measurement: a forward pass",
        "<= 1 %",
        share <= 0.01,
        f"without the first measurement, {1000 * learned:.0f} ms, which learns the order of the layers, in a process "
        f"that was warmed up by {begun - start:.1f} s of training, {1000 * first:.0f} ms of it for the curves"
        + (
            ""
            if share <= 0.01
            else ". Looking for what a pass leaves behind, hooks and kernels of a few values take longer "
            "than a pass of such a small network"
        ),
    )


def _events(name: str, net: Callable[[], nn.Module], shape: tuple[int, ...], steps: int) -> dict[str, Any]:
    batches, timed = 12, Timed()
    callback = Reflow(0.8, schedule=Gradual(every_n_steps=2, end=0.9), calibration_batches=batches)
    with timed.within(Profile, "measure"):
        fit(net, shape, 20, callback)
    events = callback.events
    repaired = sum(event.seconds["prune"] + event.seconds["repair"] for event in events[1:-1])
    measured = sum(timed.seconds[3:-3])  # three an event; the first one warms up, the last one measures all
    ratio, last = measured / repaired, sum(timed.seconds[-3:])
    return row(
        f"{name}: what an event of a gradual schedule measures",
        f"{1000 * measured / (len(events) - 2):.0f} ms",
        f"{ratio:.2f}",
        f"pruning and repairing with {batches} batches {1000 * repaired / (len(events) - 2):.0f} ms",
        f"{1000 * repaired / (len(events) - 2) / batches * 6:.0f} ms: six passes",
        "<= 0.5",
        ratio <= 0.5,
        f"the last event, all metrics: {1000 * last:.0f} ms"
        + (
            ""
            if ratio <= 0.5
            else f". {ratio / 0.5:.2f} x the target: looking for what a pass leaves behind, three times, "
            "takes longer than the passes of such a small network"
        ),
    )
