"""The loggers of a run: made for its folder, told its settings, and given the numbers of its report."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import get_class, instantiate
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from reflow_lightning.callbacks.state_runs import add_level, state_run
from reflow_lightning.experiments.resume import Saved, is_first, settings
from reflow_lightning.running.compat.lightning import is_one
from reflow_lightning.running.extras import remedy

_NEEDS = {"WandbLogger": "wandb", "MLFlowLogger": "mlflow"}
_FIRST = ("criterion", "repair", "seed", "sparsity")
_THEN = (
    *("allocation", "pattern", "min_kept", "steps", "epochs", "finetune_epochs", "optimizer.lr", "model._target_"),
    "data._target_",
)
"""Settings by which TensorBoard compares runs; its table gets unreadable with all of them. Other loggers get all."""


def compared(cfg: DictConfig) -> dict[str, int | float | str]:
    """Those settings: TensorBoard sorts by name and shows the first five, so that all others get a later letter."""
    told = settings(cfg)
    names = {name: name for name in _FIRST} | {name: f"with {name.removesuffix('._target_')}" for name in _THEN}
    return {shown: _plain(told[name]) for name, shown in names.items() if name in told}


def check_loggers(cfg: DictConfig) -> None:
    """Refuse, before anything is trained, a logger or callback in the wrong place, or a logger that is not installed.

    Raises:
        ValueError: The message names the place, or what to install.
    """
    for name in ("logger", "callbacks"):
        if cfg.trainer.get(name) is not None:
            raise ValueError(
                f"trainer.{name} is no place for it: write +{name}.mine._target_=... in place of "
                f"+trainer.{name}._target_=..., with any name for mine"
            )
    for name, node in (cfg.callbacks or {}).items():
        if node and str(node.get("_target_")) == cfg.reflow._target_:
            raise ValueError(
                f"callbacks.{name} is a second Reflow: this choice is for applications of your own, here it is there "
                "anyway, with the settings under reflow"
            )
    for name, node in _wanted(cfg).items():
        kind = str(node.get("_target_", "")).rpartition(".")[2]
        if (package := _NEEDS.get(kind)) is None:
            continue
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ValueError(f"logger.{name} needs {package}, which is not installed: {remedy(package)}") from error


def _wanted(cfg: DictConfig) -> dict[str, DictConfig]:
    """The loggers by name; ``logger.csv=null`` takes one away."""
    return {str(name): node for name, node in (cfg.logger or {}).items() if node}


def make_loggers(cfg: DictConfig, folder: Path, phase: str = "", saved: Saved | None = None) -> list[Logger]:
    """Make the loggers of a training.

    Each logger gets the run's folder, its name and the step where its curves go on, as far as it takes them and the
    configuration does not set them.

    Args:
        cfg: Its ``logger`` is a dictionary of them.
        folder: The run's folder.
        phase: The training's name, ``""`` for the one in which the network is pruned.
        saved: The checkpoint that it goes on from.
    """
    tags = [str(tag) for tag in cfg.tags]
    return [_make(node, folder, phase, saved, tags) for node in _wanted(cfg).values()]


def _make(node: DictConfig, folder: Path, phase: str, saved: Saved | None, tags: list[str]) -> Logger:
    kind = get_class(node["_target_"])
    start = f"{phase}from_step_{saved.step}" if saved else phase  # of files that can't be continued
    of_run: dict[str, Any] = {"save_dir": str(folder), "version": start}
    if is_kind(kind, "TensorBoardLogger"):
        of_run |= {"version": phase} | ({"purge_step": saved.step} if saved else {})
    elif is_kind(kind, "WandbLogger"):
        name = f"{folder.name}-{phase}" if phase else folder.name
        identity = hashlib.sha256(f"{folder.resolve()}{phase}".encode()).hexdigest()[:12]
        of_run = {"save_dir": str(folder), "name": name, "id": identity, "resume": "allow", "tags": tags}
    elif is_kind(kind, "MLFlowLogger"):
        return _mlflow(node, folder, phase, saved, tags)
    else:
        taken = inspect.signature(kind).parameters
        of_run = {name: value for name, value in of_run.items() if name in taken}
    logger: Logger = instantiate(node, **{name: value for name, value in of_run.items() if node.get(name) is None})
    return logger


def _mlflow(node: DictConfig, folder: Path, phase: str, saved: Saved | None, tags: list[str]) -> Logger:
    """MLflow names a run itself: a resumed training finds the name of its run in the folder."""
    note = folder / f".mlflow-{phase or 'run'}"
    of_run: dict[str, Any] = {"run_name": f"{folder.name}-{phase}" if phase else folder.name}
    of_run["tags"] = dict.fromkeys(tags, "true")
    if saved is not None and note.exists():
        of_run = {"run_id": note.read_text()}
    logger: Any = instantiate(node, **{name: value for name, value in of_run.items() if node.get(name) is None})
    if is_first():
        note.write_text(logger.run_id)
    made: Logger = logger
    return made


def is_kind(kind: type, name: str) -> bool:
    """Whether a class is one of Lightning's loggers, or a subclass of it."""
    return any(base.__name__ == name for base in kind.__mro__)


def log_settings(loggers: Sequence[Logger], cfg: DictConfig) -> None:
    """Tell the loggers the settings; TensorBoard is told those together with the results."""
    for logger in loggers:
        if not is_one(logger, "TensorBoardLogger"):
            logger.log_hyperparams(settings(cfg))


def log_report(loggers: Sequence[Logger], cfg: DictConfig, report: Mapping[str, Any]) -> None:
    """Log the metric of every tested state, so that runs can be compared by it, and end the loggers' runs.

    Args:
        loggers: Those of the training in which the network was pruned.
        cfg: The configuration.
        report: What ``report.json`` holds.
    """
    metric = report["metric"]
    found = {f"states/{stage}_{metric}": float(row["value"]) for stage, row in report["stages"].items()}
    found["states/sparsity"] = float(report["sparsity"])
    step = max(int(row["step"]) for row in report["stages"].values())
    for logger in loggers:
        if is_one(logger, "TensorBoardLogger"):
            logger.log_hyperparams(compared(cfg), found, step)
            _log_states(logger, metric, report["stages"])
        else:
            logger.log_metrics(found, step)
        logger.save()
        logger.finalize("success")


def _log_states(logger: Logger, metric: str, stages: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the metric of every tested state into TensorBoard's run of that state, so that one chart has them all."""
    for stage, row in stages.items():
        with state_run(logger, stage) as writer:
            add_level(writer, f"states/{metric}", float(row["value"]), int(row["step"]))


def end_wandb() -> None:
    """End the run of W&B that this process is in: the next training or job would go on in it."""
    wandb = sys.modules.get("wandb")
    if getattr(wandb, "run", None) is not None:
        wandb.finish()  # type: ignore[union-attr]


def _plain(value: Any) -> int | float | str:
    """A value that the table of TensorBoard can show."""
    return value if isinstance(value, (int, float, str)) else str(value)
