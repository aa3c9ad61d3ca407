"""Runs that were stopped: found again by their settings, without being told where they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir, initialize_config_module
from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from reflow_lightning.experiments.overrides import CONF
from reflow_lightning.experiments.resume import differences, saved_settings, settings


def taken_up(arguments: Sequence[str], config: str = "config") -> list[str]:
    """The argument that has a command with ``resume=true`` go on in the folder of its newest unfinished run.

    A run's folder is named after the time of its start, so that the same command would begin in another one.

    Args:
        arguments: Those of the command.
        config: Name of its configuration.

    Returns:
        ``["hydra.run.dir=FOLDER"]``, or nothing if no folder is wanted, as the command names one, or none is found.
    """
    given, _ = get_args_parser().parse_known_args(arguments)
    wants = any(override in ("resume=true", "resume=True", "resume=force") for override in given.overrides)
    named = any(override.startswith("hydra.run.dir=") for override in given.overrides)
    if not wants or named or given.multirun:
        return []
    own = Path(given.config_dir).resolve() if given.config_dir else None
    try:
        if own and given.config_name:
            with initialize_config_dir(str(own), version_base="1.3"):
                path = [f"hydra.searchpath=[pkg://{CONF}]"]
                cfg = compose(given.config_name, [*given.overrides, *path], return_hydra_config=True)
        else:
            with initialize_config_module(CONF, version_base="1.3"):
                path = [f"hydra.searchpath=[file://{own}]"] if own else []
                cfg = compose(config, [*given.overrides, *path], return_hydra_config=True)
        root = Path(cfg.hydra.run.dir).parent.parent
        found = next((folder for folder in unfinished(root) if is_same(cfg, folder)), None)
    except InterpolationResolutionError as error:
        print(
            f"an unfinished run can't be looked for, since a setting is known in a run alone: {error}; name its folder"
        )
        return []
    except (HydraException, OmegaConfBaseException):
        return []  # Hydra says itself what is wrong
    if found is None:
        print(f"there is no unfinished run of these settings in {root}: a new one begins")
        return []
    return [f"hydra.run.dir={found}"]


def unfinished(folder: Path) -> list[Path]:
    """The folders of runs two levels below a folder that have something to go on from, the newest first."""
    newest: dict[Path, float] = {}
    for path in folder.glob("*/*/checkpoints/*/*"):
        run = path.parent.parent.parent
        newest[run] = max(newest.get(run, 0.0), path.stat().st_mtime)
    return sorted(newest, key=lambda run: -newest[run])


def is_same(cfg: DictConfig, folder: Path) -> bool:
    """Whether the run in a folder has these settings, and something to go on from that can be read."""
    try:
        found = [saved_settings(phase) for phase in sorted((folder / "checkpoints").iterdir())]
    except (OSError, ValueError):
        return False
    runs = [saved for saved in found if saved]
    return bool(runs) and not any(differences(run, settings(cfg)) for run in runs)
