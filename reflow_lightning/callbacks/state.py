"""What a callback knows of a training, in its checkpoints and in the process that began it."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch

from reflow_lightning.callbacks.course import Course
from reflow_lightning.callbacks.home import ComesHome
from reflow_lightning.callbacks.monitor import SignalMonitor
from reflow_lightning.callbacks.trainer import callbacks_of
from reflow_lightning.events.pruner import Pruner
from reflow_lightning.events.record import PruneEvent
from reflow_lightning.pruning import Masks, PruneSpec
from reflow_lightning.rounds import Round
from reflow_lightning.running.compat.lightning import callbacks_checked, state_key
from reflow_lightning.running.describing import as_texts, changes
from reflow_lightning.running.formats import check_format
from reflow_lightning.running.processes import warn
from reflow_lightning.schedules import Progress, Schedule

FORMAT = 1
"""Number of the format of a callback's state in a checkpoint; version 0.1 wrote none."""


class KeepsState(ComesHome):
    """The part of a callback that knows where it is in its schedule, and saves that and its masks.

    Attributes:
        pruner: Has the masks.
        schedule: What the course follows.
    """

    pruner: Pruner
    schedule: Schedule
    _course: Course
    monitor: bool | SignalMonitor
    _curves: SignalMonitor | None = None  # in this fit
    _curves_before: dict[str, Any] | None = None  # of the checkpoint that is gone on from

    @property
    def completed(self) -> bool:
        """Whether all pruning is done, by the schedule or since a round was not good enough."""
        return self._course.is_completed

    def is_due(self, now: Progress) -> bool:
        """Whether a pruning is due at a moment of the training."""
        return self._course.is_due(now)

    @property
    def own_monitor(self) -> SignalMonitor | None:
        """The monitor that it has, which is none of the trainer's callbacks: the user's, or one of its own."""
        return self.monitor if isinstance(self.monitor, SignalMonitor) else self._curves

    @property
    def rounds(self) -> tuple[Round, ...]:
        """The rounds of an `Iterative` schedule so far, the dense network first; of other schedules none."""
        return self._course.judge.rounds.rows

    @property
    def returned(self) -> Round | None:
        """The round whose network a training with ``stop_on_drop`` ended with."""
        return self._course.judge.rounds.returned

    @property
    def state_key(self) -> str:
        """Tells two instances apart that prune different parameters.

        Raises:
            ValueError: If Lightning asks since a Trainer is made with two that prune the same ones.
        """
        spec = self.pruner.spec
        twins = [each for each in callbacks_checked() if isinstance(each, KeepsState) and _same(each.pruner.spec, spec)]
        if len(twins) > 1:
            raise ValueError(
                f"two Reflow in one Trainer prune the same weights, include={spec.include}, exclude={spec.exclude}: "
                "pass one, with a schedule that prunes several times, or give each weights of its own by include"
            )
        return state_key(self, include=self.pruner.spec.include, exclude=self.pruner.spec.exclude)

    def state_dict(self) -> dict[str, Any]:
        """Plain types only, so that torch loads it with ``weights_only=True``."""
        masks = None if self.pruner.masks is None else self.pruner.masks.state_dict()
        monitor = self.own_monitor
        curves = {} if monitor is None else {"signal": monitor.history.state_dict()}
        return {"format": FORMAT, "masks": masks, "arguments": self._arguments(), **self._course.state_dict(), **curves}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say so if the checkpoint has masks that no callback takes over, since all select other parameters."""
        here = {each.state_key: each for each in callbacks_of(trainer) if isinstance(each, KeepsState)}
        saved = checkpoint.get("callbacks", {})
        dropped = [key for key, state in saved.items() if key not in here and _has_masks(state)]
        if dropped and next(iter(here.values())) is self and trainer.state.fn == "fit":
            new = [key for key in here if key not in saved]
            begins = f", and {', '.join(new)} begins anew" if new else ""
            warn(
                f"the checkpoint has masks of {', '.join(dropped)}, which no callback here takes over{begins}: pass "
                "the same class, include and exclude to go on with the masks"
            )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the checkpoint was: what was pruned stays so, and no prune event happens twice.

        Raises:
            ValueError: If it was saved by a newer version, or its masks are damaged; nothing is changed then.
        """
        check_format(state_dict, FORMAT, "states of Reflow")
        course = self._course.resumed(state_dict)
        masks = None if state_dict["masks"] is None else Masks.from_state_dict(state_dict["masks"])
        self.pruner.bound.load(masks)
        self._course = course
        self._curves_before = state_dict.get("signal")  # which older versions did not save
        if told := changes(state_dict.get("arguments", {}), self._arguments()):
            warn(f"Reflow goes on from a checkpoint with other arguments than it was saved with: {told}")

    def history_before(self) -> dict[str, Any] | None:
        """What the heat map shows already, of the checkpoint that is gone on from; it is told once."""
        before, self._curves_before = self._curves_before, None
        return before

    def _return(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End with the last good round, if the last one was not."""
        masks = self._course.judge.end(trainer, pl_module, self.pruner.masks)
        if masks is not self.pruner.masks:
            self.pruner.settle()  # what the last event did is gone
            self.pruner.masks = masks
            self.pruner.bound.bind(pl_module)
            trainer.callback_metrics["sparsity/global"] = torch.tensor(self.pruner.reached)

    def _arguments(self) -> dict[str, str]:
        """What decides what is pruned, when, and how it is repaired."""
        pruner = {name: getattr(self.pruner, name) for name in ("sparsity", "repair", "calibration_batches", "seed")}
        return as_texts({**vars(self.pruner.spec), **pruner, "schedule": self.schedule})

    def bring_home(self, trainer: pl.Trainer) -> None:
        """Have the main process know what is done, if Lightning started this one to train in, as by ``ddp_spawn``."""
        self.write_home(trainer, lambda: (self.state_dict(), self.pruner.settled_events()))

    def come_home(self, state: tuple[dict[str, Any], list[PruneEvent]]) -> None:
        """Take over the state and the events of the process that trained."""
        there, self.pruner.events = state
        self.load_state_dict({name: value for name, value in there.items() if name != "arguments"})
        self.pruner.bound.bring(self.pruner.masks)


def _same(one: PruneSpec, other: PruneSpec) -> bool:
    """Whether both select the same parameters."""
    return (one.include, one.exclude) == (other.include, other.exclude)


def _has_masks(state: object) -> bool:
    """Whether a callback's state in a checkpoint holds the masks of a `Reflow`."""
    return isinstance(state, dict) and state.get("masks") is not None and isinstance(state.get("arguments"), dict)
