"""The Hydra application ``reflow-lightning``: what it answers at once, and what it starts.

Torch and Lightning take seconds to import, so nothing here does that before a run starts.
"""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig

import reflow_lightning
from reflow_lightning.experiments.completion import complete
from reflow_lightning.experiments.manual import print_help
from reflow_lightning.experiments.overrides import check_overrides


@hydra.main(version_base="1.3", config_path="pkg://reflow_lightning.conf", config_name="config")
def _app(cfg: DictConfig) -> float | None:
    from reflow_lightning.experiments.experiment import run
    from reflow_lightning.experiments.jobs import do
    from reflow_lightning.experiments.results import objective

    return do(run, objective, cfg)


@hydra.main(version_base="1.3", config_path="pkg://reflow_lightning.conf", config_name="search")
def _search(cfg: DictConfig) -> float | None:
    from reflow_lightning.experiments.jobs import do
    from reflow_lightning.experiments.search import found_sparsity, search

    return do(search, found_sparsity, cfg)


def main() -> None:
    """The console script ``reflow-lightning``; ``search`` looks for the sparsity itself, ``report`` summarises runs."""
    if sys.argv[1:2] == ["report"]:
        from reflow_lightning.experiments.summary import report

        raise SystemExit(report(sys.argv[2:]))
    searches = sys.argv[1:2] == ["search"]
    if searches:
        del sys.argv[1]
    if "--version" in sys.argv:  # Hydra would tell its own
        print(f"reflow-lightning {reflow_lightning.__version__}")
        return
    if complete(sys.argv[1:]):
        return
    config = "search" if searches else "config"
    check_overrides(sys.argv[1:], config)
    if print_help(sys.argv[1:], config):
        return
    if any(argument.startswith("resume=") for argument in sys.argv):
        from reflow_lightning.experiments.unfinished import taken_up

        sys.argv += taken_up(sys.argv[1:], config)
    (_search if searches else _app)()
