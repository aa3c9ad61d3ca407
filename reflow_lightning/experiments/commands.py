"""What all commands that run networks have in common: how they begin, and what a report says beside the results."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from omegaconf import DictConfig, OmegaConf

from reflow_lightning.experiments.extensions import load_extensions
from reflow_lightning.experiments.extras import git_state, print_config
from reflow_lightning.experiments.loggers import check_loggers
from reflow_lightning.experiments.results import fingerprint


def begin(cfg: DictConfig, folder: Path) -> None:
    """Check and load what a run needs before its data, forget the outcome of an earlier one, and seed what is drawn."""
    load_extensions(cfg)
    check_loggers(cfg)
    if cfg.print_config:
        print_config(cfg)
    for name in ("report.json", "error.txt"):
        (folder / name).unlink(missing_ok=True)
    pl.seed_everything(int(cfg.seed), workers=True, verbose=False)


def reported(
    cfg: DictConfig, tester: pl.Trainer, title: str, published: dict[str, float], results: Mapping[str, Any]
) -> dict[str, Any]:
    """The report of a run: what it was, its results, and the versions, the device and the commit that they are of."""
    paper, device = cfg.get("paper"), str(tester.strategy.root_device)
    packages = {name: version(name) for name in ("torch", "lightning", "reflow-lightning")}
    return {
        "title": title,
        "paper": OmegaConf.to_container(paper, resolve=True) if OmegaConf.is_config(paper) else paper,
        "published": published,
        "tags": list(cfg.tags),
        "seed": int(cfg.seed),
        "metric": str(cfg.metric),
        **results,
        "environment": {"python": platform.python_version(), **packages, "device": device, "git": git_state()},
        "config": fingerprint(cfg),
    }
