"""One experiment: a dense network is trained or loaded, pruned, repaired, fine-tuned, and tested in every state."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from hydra.utils import instantiate
from lightning.fabric import Fabric
from omegaconf import DictConfig
from torch import Tensor, nn

from reflow_lightning.callbacks import Reflow
from reflow_lightning.callbacks.profiles import log_profile
from reflow_lightning.cost.cost import measure_cost
from reflow_lightning.experiments.clock import Clock
from reflow_lightning.experiments.collapsing import collapse_network
from reflow_lightning.experiments.commands import begin, reported
from reflow_lightning.experiments.event_records import EventRecords, signal_of
from reflow_lightning.experiments.inputs import calibration_loader, first_test_input
from reflow_lightning.experiments.interval import interval, share_tested
from reflow_lightning.experiments.loggers import log_report, log_settings, make_loggers
from reflow_lightning.experiments.metrics import check_metric, tested, validated
from reflow_lightning.experiments.rehearsal import rehearse
from reflow_lightning.experiments.results import describe_error, print_table, write_report, write_signal
from reflow_lightning.experiments.resume import Resume
from reflow_lightning.experiments.spreading import check_spread, copy_state, load_state
from reflow_lightning.experiments.stages import Stages
from reflow_lightning.experiments.training import fit_and_prune, load_or_pretrain, make_trainer, trains
from reflow_lightning.pruning import select
from reflow_lightning.running.batches import device_of
from reflow_lightning.running.files import write_tensors
from reflow_lightning.running.fresh import fresh
from reflow_lightning.running.processes import warn
from reflow_lightning.running.samples import first_sample
from reflow_lightning.running.sharding import is_sharded, sharded_modules
from reflow_lightning.running.world import share


def run(cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """Run one experiment and write its results.

    Args:
        cfg: The composed configuration, as in ``conf/config.yaml``.
        folder: Where the results go.

    Returns:
        What ``report.json`` holds.

    Raises:
        RuntimeError: If the training ended before anything was pruned.
    """
    clock = Clock()
    resume = Resume(cfg, folder, clock)
    if not isinstance(cfg.collapse, bool):
        raise ValueError(f"collapse={cfg.collapse!r} must be true or false")
    check_spread(cfg)
    begin(cfg, folder)
    data: pl.LightningDataModule = instantiate(cfg.data)
    tester = make_trainer(cfg, logger=False, callbacks=[])
    if tester.is_global_zero:
        print(f"{cfg.title}: results go to {folder}", flush=True)
    if tester.world_size == 1:  # missing data are noticed before weights are downloaded
        data.prepare_data()
        data.setup("fit")
    module: pl.LightningModule = instantiate(cfg.module)
    reflow: Reflow = instantiate(cfg.reflow, calibration_data=data)
    rehearse(cfg, module, data, reflow)
    load_or_pretrain(cfg, module, data, folder, resume)
    stages = Stages(clock)
    reflow.listeners.append(stages.record)
    if trains(cfg):
        events, loggers = fit_and_prune(cfg, module, data, reflow, stages, folder, resume)
    else:
        events, loggers = _apply(cfg, tester, module, data, reflow), make_loggers(cfg, folder)
        if tester.is_global_zero:
            log_settings(loggers, cfg)
            log_profile(loggers, reflow.events[-1], 0)
    ended = clock.seconds()
    of_stages = measure_stages(cfg, tester, stages, module, data)  # leaves the last state in the module
    collapsed, tables = collapse_network(cfg, tester, module, data, folder) if cfg.collapse else (None, "")
    event = events[-1]
    results = {
        **of_stages,
        "validation": _validation(cfg, tester, module, data),
        "sparsity": list(of_stages["stages"].values())[-1]["sparsity"],
        "coverage": event["coverage"],
        "rounds": [asdict(row) for row in reflow.rounds],
        "calibration": event["calibration"],
        "recipe": event.get("recipe", ""),
        "cost": cost_of(held_whole(cfg, module), data),
        "collapse": collapsed,
        "seconds": _seconds(events, stages.times["repaired"], ended, clock.seconds()),
    }
    report = reported(cfg, tester, str(cfg.title), _published(cfg), results)
    pruned = pruned_network(module, reflow)
    if tester.is_global_zero:
        write_tensors(folder / "pruned.ckpt", pruned)
        write_signal(folder, signal_of(events), f"{cfg.title}, sparsity {event['sparsity']:.3g}")
        write_report(folder, report)
        log_report(loggers, cfg, report)
        print_table(report)
        if tables:
            print(tables)
        resume.forget()
    return report


def _apply(
    cfg: DictConfig, tester: pl.Trainer, module: pl.LightningModule, data: pl.LightningDataModule, reflow: Reflow
) -> list[dict[str, Any]]:
    """Prune and repair without training; several processes share the calibration out."""
    if tester.world_size == 1:
        module.to(tester.strategy.root_device)
        reflow.apply(module, calibration_loader(data))
        return EventRecords(reflow).events()
    options = {
        name: cfg.trainer[name] for name in ("accelerator", "devices", "strategy", "num_nodes") if name in cfg.trainer
    }
    fabric = Fabric(**options)
    fabric.launch()  # from here on there are as many processes as the trainer of the tests would start
    data.prepare_data()
    module.to(fabric.device)
    ranks = {"rank": fabric.global_rank, "world_size": fabric.world_size}
    limit = reflow.pruner.calibration_batches
    reflow.pruner.calibration_batches = limit if limit == "auto" else share(limit)
    reflow.apply(module, fresh(calibration_loader(data), shuffle=True, seed=int(cfg.seed), **ranks))
    return EventRecords(reflow).events()


def measure_stages(
    cfg: DictConfig, tester: pl.Trainer, stages: Stages, module: pl.LightningModule, data: pl.LightningDataModule
) -> dict[str, Any]:
    """Test every recorded state: its metric by name, and its step, metric, interval and sparsity under ``stages``.

    Under ``tested`` stands how many batches of how many each test had: ``trainer.limit_test_batches`` leaves some out.
    """
    found: dict[str, Any] = {"stages": {}}
    weights = list(select(module, cfg.reflow.include, cfg.reflow.exclude).values())
    for stage, state in stages.states.items():
        load_state(module, state)
        metrics = tested(tester, module, data)
        zeros = sum(map(_zeros_in, weights))
        check_metric(str(cfg.metric), "test", metrics)
        found[stage] = metrics[f"test/{cfg.metric}"]
        found["stages"][stage] = {
            "step": stages.steps[stage],
            "value": found[stage],
            "interval": interval(str(cfg.metric), found[stage], tester),
            "sparsity": zeros / sum(weight.numel() for weight in weights),
        }
    return found | {"tested": share_tested(tester)}


def _zeros_in(weight: Tensor) -> int:
    zeros: Any = (weight == 0).sum()
    return int(zeros.full_tensor() if is_sharded(zeros) else zeros)


def _published(cfg: DictConfig) -> dict[str, float]:
    """The published numbers; of a pruned network only if its sparsity is the experiment's."""
    published: dict[str, float] = dict(cfg.get("published") or {})
    same = published.pop("sparsity", cfg.sparsity) == cfg.sparsity
    return {stage: value for stage, value in published.items() if same or stage == "dense"}


def _validation(cfg: DictConfig, tester: pl.Trainer, module: pl.LightningModule, data: Any) -> float | None:
    """The validation metric of the module as it is: what a sweep may choose by."""
    return validated(tester, module, data).get(f"val/{cfg.metric}")


def held_whole(cfg: DictConfig, module: pl.LightningModule) -> pl.LightningModule:
    """The module as it is, or a copy with whole parameters where they are spread over devices."""
    if not sharded_modules(module):
        return module
    copy: pl.LightningModule = instantiate(cfg.module)
    load_state(copy, copy_state(module))
    return copy


def cost_of(module: pl.LightningModule, data: pl.LightningDataModule) -> dict[str, Any] | None:
    """What the network costs on one test sample; nothing, and a warning, if its input can't be made of a batch."""
    try:
        (example,) = first_sample((first_test_input(data, device_of(module)),))
        return measure_cost(getattr(module, "net", module), example).to_dict()
    except Exception as error:  # of anybody's data and network
        warn(f"the cost of the network is not counted, since its input could not be made: {describe_error(error)}")
        return None


def _seconds(events: list[dict[str, Any]], repaired: float, ended: float, total: float) -> dict[str, float]:
    """Seconds by activity; training is what is left up to the last repair."""
    prune = sum(event["seconds"]["prune"] for event in events)
    repair = sum(event["seconds"]["repair"] for event in events)
    return {
        "train": repaired - prune - repair,
        "prune": prune,
        "repair": repair,
        "finetune": ended - repaired,
        "total": total,
    }


def pruned_network(module: nn.Module, reflow: Reflow) -> dict[str, Any]:
    """The network as it was tested last, with its masks, in plain types; where several processes run, all ask."""
    return {"state_dict": copy_state(module), "callbacks": {reflow.state_key: reflow.state_dict()}}
