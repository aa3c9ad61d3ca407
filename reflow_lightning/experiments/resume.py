"""From which checkpoint a run goes on, if it goes on from one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from reflow_lightning.experiments.clock import Clock
from reflow_lightning.experiments.saving import KEY, LAST, PREVIOUS, Checkpoints
from reflow_lightning.running.files import read_tensors
from reflow_lightning.running.processes import warn

_FREE = ("resume", "ckpt_path", "checkpoint", "callbacks", "data_dir", "data.folder", "data.num_workers")
_FREE_OF_TRAINER = ("enable_progress_bar", "enable_model_summary", "log_every_n_steps")
"""Settings that a resumed run may have otherwise: they do not change what comes out."""


@dataclass(frozen=True)
class Resume:
    """Where a run keeps its checkpoints, and whether it goes on from them.

    Attributes:
        cfg: The run's configuration. ``resume`` is true, false or ``"force"``, which accepts other settings than those
            that the checkpoint was saved with; ``ckpt_path`` names a checkpoint to go on from in any case.
        folder: The run's folder.
        clock: Counts the run's seconds.
    """

    cfg: DictConfig
    folder: Path
    clock: Clock

    def __post_init__(self) -> None:
        if self.cfg.resume not in (True, False, None, "force"):
            raise ValueError(f"resume={self.cfg.resume!r} must be true, false or force")

    def callback(self, phase: str) -> Checkpoints:
        """What saves a phase of the run."""
        run = {"phase": phase, "config": settings(self.cfg)}
        return Checkpoints(self._at(phase), run, self.clock, **self.cfg.checkpoint)

    def checkpoint(self, phase: str) -> Path | None:
        """The checkpoint to go on from in a phase of a run, if there is one.

        Raises:
            ValueError: If it is of a run with other settings, or none of those that are there can be read.
        """
        if self.cfg.ckpt_path is not None:
            path = Path(self.cfg.ckpt_path)
            content = read_tensors(path)
            if KEY not in content:
                raise ValueError(
                    f"ckpt_path={path} was not saved by reflow-lightning: pass ckpt={path} to begin with its weights"
                )
            found = (path, content[KEY])
        elif self.cfg.resume and (newest := newest_whole(self._at(phase))):
            found = newest
        else:
            return None
        path, run = found
        if self.cfg.resume != "force" and (told := differences(run["config"], settings(self.cfg))):
            raise ValueError(
                f"{path} was saved by a run with other settings: {told}; give the same to go on, resume=force to go on "
                "with these, or resume=false to begin anew"
            )
        return path if run["phase"] == phase else None

    def is_beyond(self, phase: str) -> bool:
        """Whether a checkpoint is there of a phase: those before it are over."""
        return self.checkpoint(phase) is not None

    def forget(self) -> None:
        """Remove the checkpoints of a run that is over, or that begins anew."""
        shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)

    def _at(self, phase: str) -> Path:
        return self.folder / "checkpoints" / phase


def newest_whole(folder: Path) -> tuple[Path, Mapping[str, Any]] | None:
    """The newest checkpoint in a folder that can be read, and what it says of its run.

    Raises:
        ValueError: If there are some, and none can be read.
    """
    damaged = []
    for name in (LAST, PREVIOUS):
        if not (path := folder / name).exists():
            continue
        try:
            return path, read_tensors(path)[KEY]
        except (OSError, ValueError, KeyError) as error:
            damaged.append(f"{path} can't be read ({error})")
            warn(f"{damaged[-1]}: the checkpoint before it is taken, if there is one")
    if damaged:
        raise ValueError(f"{'; '.join(damaged)}: resume=false begins anew")
    return None


def settings(cfg: DictConfig) -> dict[str, Any]:
    """What a configuration says that decides what comes out, in plain types, by dotted key."""
    plain = OmegaConf.to_container(cfg, resolve=True)
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


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Have a folder to this run alone; the system ends that with the process, however it ends.

    Raises:
        ValueError: If another run is at work in it.
    """
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"another run is at work in {folder}: wait for its end, or choose another folder") from None
    try:
        yield
    finally:
        lock.release()
