"""From which checkpoint a run goes on, if it goes on from one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from lightning.pytorch.utilities.rank_zero import rank_zero_only  # type: ignore[attr-defined]
from omegaconf import DictConfig, OmegaConf

from reflow_lightning.experiments.clock import Clock
from reflow_lightning.experiments.results import fingerprint
from reflow_lightning.experiments.saved_trials import TRIALS, SavedTrials, read_trials
from reflow_lightning.experiments.saving import KEY, LAST, PREVIOUS, Checkpoints
from reflow_lightning.running.files import read_tensors
from reflow_lightning.running.processes import warn

_FREE = (
    "share",
    "resume",
    "tags",
    "print_config",
    "rehearse",
    "output_dir",
    "ckpt_path",
    "checkpoint",
    "callbacks",
    "logger",
    "data_dir",
    "data.folder",
    "data.num_workers",
)
_FREE_OF_TRAINER = ("enable_progress_bar", "enable_model_summary", "log_every_n_steps")
"""Settings that a resumed run may have otherwise: more patience, other loggers, or what does not change the result."""


class Saved(NamedTuple):
    """A checkpoint that can be read.

    Attributes:
        path: Its file.
        run: Which run and phase it is of.
        step: Optimizer steps done by then.
    """

    path: Path
    run: Mapping[str, Any]
    step: int


class Resume:
    """Where a run keeps its checkpoints, and whether it goes on from them.

    Args:
        cfg: The run's configuration. ``resume`` is true, false or ``"force"``, which accepts other settings than those
            that the checkpoint was saved with; ``ckpt_path`` names a checkpoint to go on from in any case.
        folder: The run's folder.
        clock: Counts the run's seconds.
    """

    def __init__(self, cfg: DictConfig, folder: Path, clock: Clock) -> None:
        if cfg.resume not in (True, False, None, "force"):
            raise ValueError(f"resume={cfg.resume!r} must be true, false or force")
        self.cfg, self.folder, self.clock = cfg, folder, clock
        self._found: dict[str, Saved | None] = {}
        if not cfg.resume and cfg.ckpt_path is None and is_first():
            self.forget()

    def callback(self, phase: str) -> Checkpoints:
        """What saves a phase of the run."""
        run = {"phase": phase, "config": settings(self.cfg)}
        return Checkpoints(self._at(phase), run, self.clock, **self.cfg.checkpoint)

    def checkpoint(self, phase: str) -> Saved | None:
        """The checkpoint to go on from in a phase of a run, if there is one; looked for once.

        Raises:
            ValueError: If it is of a run with other settings, or none of those that are there can be read.
        """
        if phase not in self._found:
            self._found[phase] = self._find(phase)
        return self._found[phase]

    def _find(self, phase: str) -> Saved | None:
        found = newest_whole(self._at(phase)) if self.cfg.resume else None
        if found is None and self.cfg.ckpt_path is not None:  # not even begun
            found = read(Path(self.cfg.ckpt_path))
        if found is None:
            return None
        self._check_settings(found.run["config"], found.path)
        return found if found.run["phase"] == phase else None

    def trials(self) -> SavedTrials:
        """The trials of a search that were made already, if it goes on, and where new ones go.

        Those of other settings or weights are not taken, not even by force: they are other networks.

        Raises:
            ValueError: If they were made with other settings, and it goes on without force.
        """
        path = self._at("search") / TRIALS
        now = settings(self.cfg) | {"fingerprint": fingerprint(self.cfg)}
        kept = SavedTrials(path, now)
        config, made = read_trials(path) if self.cfg.resume else ({}, {})
        if made:
            self._check_settings(config, path)
            if not differences(config, now):
                kept.update(made)
        return kept

    def _check_settings(self, saved: Mapping[str, Any], path: Path) -> None:
        told = differences({key: value for key, value in saved.items() if key != "fingerprint"}, settings(self.cfg))
        if told and self.cfg.resume != "force":
            raise ValueError(
                f"{path} was saved by a run with other settings: {told}; give the same to go on, resume=force to "
                "go on with these, or resume=false to begin anew"
            )

    def forget(self) -> None:
        """Remove the checkpoints of a run that is over, or that begins anew."""
        shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)

    def _at(self, phase: str) -> Path:
        return self.folder / "checkpoints" / phase


def read(path: Path) -> Saved:
    """Read what a checkpoint says of itself.

    Raises:
        OSError: If it can't be read.
        ValueError: If it is damaged, or none of ours.
    """
    content = read_tensors(path)
    if not isinstance(content, dict) or KEY not in content:
        raise ValueError(
            f"{path} was not saved by a run of reflow-lightning: pass ckpt={path} to begin with its weights"
        )
    return Saved(path, content[KEY], int(content["global_step"]))


def newest_whole(folder: Path) -> Saved | None:
    """The newest checkpoint in a folder that can be read.

    Raises:
        ValueError: If there are some, and none can be read.
    """
    return newest_of(folder / LAST, folder / PREVIOUS)


def newest_of(*paths: Path) -> Saved | None:
    """The first of several checkpoints that can be read; see `newest_whole`."""
    damaged = []
    for path in paths:
        if not path.exists():
            continue
        try:
            return read(path)
        except (OSError, ValueError) as error:
            damaged.append(f"{path} can't be read ({error})")
            warn(f"{damaged[-1]}: the checkpoint before it is taken, if there is one")
    if damaged:
        raise ValueError(f"{'; '.join(damaged)}: resume=false begins anew")
    return None


def saved_settings(phase: Path) -> Mapping[str, Any]:
    """The settings that were saved with a phase of a run, of what can be read in its folder; none if there is nothing.

    Raises:
        ValueError: If nothing that is there can be read.
    """
    newest = newest_whole(phase)
    found = newest.run["config"] if newest else read_trials(phase / TRIALS)[0]
    return {key: value for key, value in found.items() if key != "fingerprint"}


def settings(cfg: DictConfig) -> dict[str, Any]:
    """What a configuration says that decides what comes out, in plain types, by dotted key."""
    told = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key not in ("title", "hydra")])
    OmegaConf.update(told, "trainer.profiler", None, force_add=True)  # it may name a folder of Hydra's
    plain = OmegaConf.to_container(told, resolve=True)
    assert isinstance(plain, dict)
    free = (*_FREE, *(f"trainer.{name}" for name in _FREE_OF_TRAINER))
    return {
        key: value
        for key, value in _flat({str(key): value for key, value in plain.items()})
        if not any(key == name or key.startswith(f"{name}.") for name in free)
    }


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Settings that are not the same, in words.

    Example:
        >>> differences({"epochs": 30, "seed": 0}, {"epochs": 20, "seed": 0, "pattern": "2:4"})
        'epochs=30, now 20; pattern was not there, now 2:4'
    """
    texts = []
    for key in sorted({*saved, *now}):
        if key not in saved:
            texts.append(f"{key} was not there, now {now[key]}")
        elif key not in now:
            texts.append(f"{key}={saved[key]}, now not there")
        elif saved[key] != now[key]:
            texts.append(f"{key}={saved[key]}, now {now[key]}")
    return "; ".join(texts)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, (int, float, type(None))) else str(value)


def is_unfinished(folder: Path) -> bool:
    """Whether a run in a folder was stopped, and left something to go on from."""
    return any((folder / "checkpoints").glob("*/*"))


def process_number() -> int:
    """The number of this process in the run; it is known before the processes are connected."""
    return int(getattr(rank_zero_only, "rank", 0) or 0)


def is_first() -> bool:
    """Whether this is the first process of a run, or its only one."""
    return process_number() == 0


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Have a folder to this run alone; the system ends that with the process, however it ends.

    Raises:
        ValueError: If another run is at work in it.
    """
    if not is_first():  # the first process of a run has it for all
        yield
        return
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"another run is at work in {folder}: wait for its end, or choose another folder") from None
    try:
        yield
    finally:
        lock.release()
