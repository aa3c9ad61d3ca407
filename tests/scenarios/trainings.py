"""Trainings of several processes: DDP, and parameters spread over processes by ModelParallelStrategy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from helpers import Module, images, loader, trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.utils.data import DataLoader

from reflow_lightning import Gradual, OneShot, Reflow, SignalMonitor
from reflow_lightning.calibration import BatchNormStatistics
from reflow_lightning.running.isolation import only_training
from reflow_lightning.running.sharding import reshard
from scenarios.processes import error_of, named, values


def seeded(kind: type[Module] = Module) -> Module:
    torch.manual_seed(0)
    return kind()


def data(n: int = 72) -> DataLoader[Any]:
    """Of 72 samples in batches of 8: nine, which two processes can't share out evenly."""
    return loader(n, 8)


def fit(callback: Any, module: Module, strategy: Any, *others: Any, batches: Any = None, **options: Any) -> Any:
    """A Trainer over all processes, after its fit."""
    for_fit = {name: options.pop(name) for name in ("ckpt_path", "weights_only") if name in options}
    options = {"max_epochs": 1, "devices": dist.get_world_size()} | options
    runner = trainer(callback, *others, strategy=strategy, **options)
    runner.fit(module, batches or data(), loader(16, shuffle=False), **for_fit)
    return runner


def resharded(module: nn.Module) -> dict[str, torch.Tensor]:
    """The state of a network that a forward pass may have left whole."""
    reshard(module)
    return values(module)


class Watch:
    """Keeps the state and the signal of the network at the end of a prune event."""

    def __init__(self) -> None:
        self.states: list[dict[str, torch.Tensor]] = []

    def __call__(self, stage: str, module: nn.Module) -> None:
        if stage == "repaired":
            self.states.append(resharded(module))


def one_shot(strategy: Any, module: Module, *listeners: Any, batches: Any = None, **options: Any) -> dict[str, Any]:
    """The network right after the prune event, which is the first thing in the training."""
    calibrated = 0

    def count(model: nn.Module, batches: Any, forward: Any, reference: Any) -> Any:
        def counted(network: nn.Module, batch: Any) -> Any:
            nonlocal calibrated
            calibrated += 1
            return forward(network, batch)

        return BatchNormStatistics()(model, batches, counted, reference)

    count.writes_weights = False
    callback, watch = Reflow(0.6, calibration_batches=9, repair=count, **options), Watch()
    callback.listeners.extend([*listeners, watch])
    fit(callback, module, strategy, batches=batches)
    [event] = callback.events
    return {
        "batches_here": calibrated,
        "after": watch.states[0],
        "masks": callback.state_dict()["masks"],
        "signal": {stage: report.to_dict() for stage, report in event.signal.items()},
        "batches": event.calibration.batches,
        "end": resharded(module),
    }


def ddp(_: Path) -> dict[str, Any]:
    return one_shot("ddp", seeded())


def ddp_random_scores(_: Path) -> dict[str, Any]:
    """A criterion that draws at random, on processes whose random states differ."""
    return one_shot("ddp", seeded(), criterion=lambda name, weight: torch.rand_like(weight))


def ddp_few_batches(_: Path) -> dict[str, Any]:
    """Three batches of calibration data: on three processes one for each, on two one has two; one is never cut."""
    batches = list(images(24).split(8))
    return one_shot("ddp", seeded(), calibration_data=lambda: iter(batches))


def ddp_one_batch(_: Path) -> dict[str, Any]:
    return one_shot("ddp", seeded(), calibration_data=lambda: [images(16)])


class Breaks:
    """A forward pass that fails on one process, in the prune event."""

    def __init__(self) -> None:
        self.armed = False

    def __call__(self, module: nn.Module, batch: Any) -> Any:
        if self.armed and dist.get_rank() == 1:
            raise ZeroDivisionError("rank 1 alone")
        return module(batch[0])


def a_process_that_fails(_: Path) -> dict[str, Any]:
    module, forward, watch = seeded(), Breaks(), []
    callback = Reflow(0.6, schedule=OneShot(step=2), forward=forward, monitor=False)

    def listener(stage: str, network: nn.Module) -> None:
        if stage == "dense":
            watch.append(resharded(network))
            forward.armed = True

    callback.listeners.append(listener)
    raised = error_of(fit, callback, module, "ddp")
    return {"raised": raised, "before": watch[0], "after": resharded(module)}


def gradual_ddp(_: Path) -> dict[str, Any]:
    module, callback = seeded(), Reflow(0.6, schedule=Gradual(every_n_steps=1))
    fit(callback, module, "ddp", max_epochs=2)
    return {"masks": callback.state_dict()["masks"], "end": resharded(module), "events": len(callback.events)}


class Spread(Module):
    """Its parameters are spread over the processes."""

    def configure_model(self) -> None:
        from torch.distributed.fsdp import FSDPModule, fully_shard

        if not isinstance(self.net, FSDPModule):
            mesh = self.device_mesh["data_parallel"]
            for layer in (self.net[0], self.net[4], self.net):
                fully_shard(layer, mesh=mesh)


def model_parallel(**options: Any) -> ModelParallelStrategy:
    return ModelParallelStrategy(
        data_parallel_size=dist.get_world_size(), tensor_parallel_size=1, process_group_backend="gloo", **options
    )


def sharded(_: Path) -> dict[str, Any]:
    """With a listener that runs the network, which leaves it whole."""

    def evaluate(stage: str, network: nn.Module) -> None:
        with torch.no_grad(), only_training(network, ()):
            network(images(2))

    return one_shot(model_parallel(), seeded(Spread), evaluate)


def _reconstructed(strategy: Any, module: Module) -> dict[str, Any]:
    callback, watch = Reflow(0.6, calibration_batches=9, repair="reconstruct", steps=2), Watch()
    callback.listeners.append(watch)
    fit(callback, module, strategy)
    return {"after": watch.states[0], "masks": callback.state_dict()["masks"], "end": resharded(module)}


def ddp_reconstructed(_: Path) -> dict[str, Any]:
    return _reconstructed("ddp", seeded())


def sharded_reconstructed(_: Path) -> dict[str, Any]:
    return _reconstructed(model_parallel(), seeded(Spread))


def several_loaders(_: Path) -> dict[str, Any]:
    """One has nine batches, the other a single one; the network gets the batches of the first."""

    class Both(Module):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch["long"], batch_idx)

    loaders = {"long": data(), "short": loader(8, 8)}
    return one_shot("ddp", seeded(Both), batches=loaders, forward=lambda model, batch: model(batch["long"][0]))


class Counted(pl.LightningDataModule):
    """Counts how often it is prepared here."""

    def __init__(self) -> None:
        super().__init__()
        self.prepared = 0

    def prepare_data(self) -> None:
        self.prepared += 1

    def train_dataloader(self) -> Any:
        return data()


def a_data_module_of_its_own(_: Path) -> int:
    source = Counted()
    callback = Reflow(0.6, schedule=Gradual(every_n_steps=1), calibration_data=source, calibration_batches=2)
    fit(callback, seeded(), "ddp")
    return source.prepared


def one_logger(folder: Path) -> list[int]:
    """Only the first process logs; all take part in measuring."""
    logger = CSVLogger(folder) if dist.get_rank() == 0 else False
    fit(SignalMonitor(1), seeded(), "ddp", logger=logger)
    return [] if not logger else [len(logger.experiment.metrics)]


TRAININGS = named(
    ddp,
    ddp_random_scores,
    ddp_few_batches,
    ddp_one_batch,
    gradual_ddp,
    sharded,
    ddp_reconstructed,
    sharded_reconstructed,
    several_loaders,
    a_data_module_of_its_own,
    one_logger,
    a_process_that_fails,  # last: it leaves a training that was broken off
)
