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
    """Load and check what a run needs before its data and networks are made, and seed whatever is drawn.

    What an earlier run left in the folder as its outcome is removed.
    """
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
    """The report of a run: what it was, its results, and where it ran.

    Args:
        cfg: The configuration.
        tester: The trainer that tested.
        title: Heading.
        published: The published numbers by state.
        results: The rest.
    """
    paper = cfg.get("paper")
    return {
        "title": title,
        "paper": OmegaConf.to_container(paper, resolve=True) if OmegaConf.is_config(paper) else paper,
        "published": published,
        "tags": list(cfg.tags),
        "seed": int(cfg.seed),
        "metric": str(cfg.metric),
        **results,
        "environment": _environment(tester),
        "config": fingerprint(cfg),
    }


def _environment(trainer: pl.Trainer) -> dict[str, str]:
    """Versions, the device, and the commit of the code that the command was started in."""
    packages = {name: version(name) for name in ("torch", "lightning", "reflow-lightning")}
    device = str(trainer.strategy.root_device)
    return {"python": platform.python_version(), **packages, "device": device, "git": git_state()}
