"""Rounds of pruning and training in several processes, for the distributed tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch.distributed as dist
from helpers import loader, trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.fsdp import FSDPModule, fully_shard

from reflow_lightning import Iterative, Reflow
from scenarios.processes import named, whole
from scenarios.resuming import Deterministic, Save


class Disagreeing(Deterministic):
    """Each process logs a metric of its own."""

    values = ((0.9, 0.9, 0.1, 0.1, 0.1), (0.5, 0.9, 0.9, 0.9, 0.9))  # the last for all other ranks

    def on_validation_epoch_end(self) -> None:
        self.log("val/accuracy", self.values[min(dist.get_rank(), 1)][self.current_epoch], sync_dist=False)


class Spread(Disagreeing):
    """The same, with parameters that are spread over the processes."""

    def configure_model(self) -> None:
        if not isinstance(self.net, FSDPModule):
            for layer in (self.net[0], self.net):
                fully_shard(layer, mesh=self.device_mesh["data_parallel"])


def _spread() -> ModelParallelStrategy:
    return ModelParallelStrategy(
        data_parallel_size=dist.get_world_size(), tensor_parallel_size=1, process_group_backend="gloo"
    )


def _ended(
    callback: Reflow,
    *others: Any,
    ckpt_path: Path | None = None,
    kind: type[Disagreeing] = Disagreeing,
    strategy: Any = "ddp",
) -> dict[str, Any]:
    module = kind(0 if ckpt_path is None else 1)
    runner = trainer(callback, *others, strategy=strategy, devices=dist.get_world_size(), max_epochs=5)
    runner.fit(module, loader(48), loader(24, 8, shuffle=False), ckpt_path=ckpt_path, weights_only=True)
    return {
        "steps": runner.global_step,
        "kept": [row.kept for row in callback.rounds],
        "returned": callback.returned.number,
        "masks": callback.state_dict()["masks"],
        "weights": {name: whole(value.detach()) for name, value in module.named_parameters()},
    }


def _iterative() -> Reflow:
    schedule = Iterative(amount=0.5, stop_on_drop=0.1)
    return Reflow(0.8, schedule=schedule, calibration_batches=2, monitor=False, repair="batchnorm")


def rank_zero_decides(folder: Path) -> dict[str, Any]:
    save = Save(folder / str(dist.get_world_size()), "on_train_epoch_end")
    save.folder.mkdir(exist_ok=True)
    complete = _ended(_iterative(), save)
    return {"whole": complete, "resumed": [_ended(_iterative(), ckpt_path=path) for path in save.paths[1:]]}


def rounds_of_a_spread_network(folder: Path) -> dict[str, Any]:
    save = Save(folder / f"spread_{dist.get_world_size()}", "on_train_epoch_end")
    save.folder.mkdir(exist_ok=True)
    complete = _ended(_iterative(), save, kind=Spread, strategy=_spread())
    paths = save.paths[1:]
    return {
        "whole": complete,
        "resumed": [_ended(_iterative(), ckpt_path=path, kind=Spread, strategy=_spread()) for path in paths],
    }


def one_process_lacks_the_metric(_: Path) -> str:
    class Silent(Deterministic):
        def on_validation_epoch_end(self) -> None:
            if dist.get_rank() > 0:
                self.log("val/accuracy", 0.9)

    runner = trainer(_iterative(), strategy="ddp", devices=dist.get_world_size(), max_epochs=5)
    try:
        runner.fit(Silent(0), loader(48), loader(24, 8, shuffle=False))
    except ValueError as error:
        return str(error)
    return "nothing"


ROUNDS = named(rank_zero_decides, rounds_of_a_spread_network, one_process_lacks_the_metric)
