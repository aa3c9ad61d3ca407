"""The rounds of a schedule in a Lightning training: their metric, their end, the network that is returned to."""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info  # type: ignore[attr-defined]

from reflow_lightning.callbacks.averages import averaging_callbacks
from reflow_lightning.pruning import Masks
from reflow_lightning.rounds.kept import Kept
from reflow_lightning.rounds.rounds import Rounds
from reflow_lightning.running.processes import gather, together, warn
from reflow_lightning.schedules import RoundRule, Schedule, rounds_of


class NoJudge:
    """Of a schedule that has no rounds: lets it be."""

    def __init__(self) -> None:
        self.rounds = Rounds(stop_on_drop=None)

    def begin(self, trainer: pl.Trainer, sparsity: float) -> None:
        """The training begins, or goes on from a checkpoint."""

    def pruned(self, sparsity: float) -> None:
        """The network was pruned."""

    def validated(self, trainer: pl.Trainer, module: pl.LightningModule, masks: Masks | None) -> None:
        """A validation has ended, this one of the training or another."""

    def judge(self, trainer: pl.Trainer) -> None:
        """The next round would begin now: end the training if it must not."""

    def end(self, trainer: pl.Trainer, module: pl.LightningModule, masks: Masks | None) -> Masks | None:
        """The training has ended: return to the network that was chosen, if rounds are judged, and to its metric.

        Returns:
            Its masks; those that were given if the network stays as it is.
        """
        return masks

    def state_dict(self) -> dict[str, Any] | None:
        """Plain types only."""
        return None

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was."""


class Judge(NoJudge):
    """Hears of a training's validations, and ends it when a round was not good enough.

    Args:
        rule: Says what is good enough.
        schedule: What the schedule of the rounds is called, for messages.
    """

    def __init__(self, rule: RoundRule, schedule: str) -> None:
        self.rule, self.schedule = rule, schedule
        self.rounds = Rounds(rule.stop_on_drop, rule.mode)

    def begin(self, trainer: pl.Trainer, sparsity: float) -> None:
        """See `NoJudge`; a run that was about to end when it was saved does so.

        Raises:
            ValueError: If the rounds can't be judged.
        """
        if self.rule.stop_on_drop is not None and not self.rounds.over:
            with together("checking that rounds can be judged"):
                check_judged(trainer, self.rule)
        if not self.rounds.rows:
            self.rounds.begin(sparsity)
        trainer.should_stop |= self.rounds.stopped and not self.rounds.over

    def pruned(self, sparsity: float) -> None:
        """A round begins."""
        dense = self.rounds.rows[0].value
        if self.rule.stop_on_drop is not None and len(self.rounds.rows) == 1 and (dense is None or isnan(dense)):
            found = "was not validated since the last checkpoint" if dense is None else "never had a metric but NaN"
            warn(
                f"the dense network {found}, so that every round will count as good enough: validate it, and log "
                f"{self.rule.monitor!r}, before the first pruning"
            )
        self.rounds.begin(sparsity)

    def validated(self, trainer: pl.Trainer, module: pl.LightningModule, masks: Masks | None) -> None:
        """Keep the network if it is the best of its round.

        Raises:
            ValueError: If the metric was not logged.
        """
        if trainer.state.fn != "fit" or trainer.sanity_checking or self.rounds.is_done:
            return
        value = self._metric(trainer)
        if value is not None:
            epoch, step = trainer.current_epoch, trainer.global_step
            with together("keeping the network of a round"):
                self.rounds.validated(value, epoch=epoch, step=step, keep=lambda: Kept.of(module, masks))

    def judge(self, trainer: pl.Trainer) -> None:
        """See `NoJudge`."""
        if not self.rounds.judge():
            trainer.should_stop = True

    def end(self, trainer: pl.Trainer, module: pl.LightningModule, masks: Masks | None) -> Masks | None:
        """See `NoJudge`; the last round ends with the training."""
        if self.rule.stop_on_drop is None or self.rounds.over or not self.rounds.rows:
            return masks
        self.rounds.judge()
        kept = self.rounds.end()
        if kept is not None:
            with together("returning to the network of a round"):
                kept.put_back(module)
            masks = kept.masks
        if (back := self.rounds.returned) is not None and back.value is not None:
            trainer.callback_metrics[self.rule.monitor] = torch.tensor(back.value)
        rank_zero_info(_summary(self.rounds, self.rule.monitor))
        return masks

    def state_dict(self) -> dict[str, Any]:
        """Plain types only."""
        return self.rounds.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was."""
        self.rounds.load_state_dict(state)

    def _metric(self, trainer: pl.Trainer) -> float | None:
        """The metric as rank zero knows it, so that all processes decide alike; ``None``: missing, and not needed."""
        found = trainer.callback_metrics.get(self.rule.monitor)
        value: float | None = gather(None if found is None else float(found))[0]
        if value is None and self.rule.stop_on_drop is not None:
            known = ", ".join(sorted(trainer.callback_metrics)) or "none"
            raise ValueError(
                f"{self.schedule}(monitor={self.rule.monitor!r}) was not logged in the validation: use one of {known}"
            )
        return value


def judge_of(schedule: Schedule) -> NoJudge:
    """The judge for a schedule.

    Example:
        >>> from reflow_lightning import Iterative
        >>> judge_of(Iterative(stop_on_drop=0.01)).rounds.rows
        ()
    """
    rule = rounds_of(schedule)
    return NoJudge() if rule is None else Judge(rule, type(schedule).__name__)


def check_judged(trainer: pl.Trainer, rule: RoundRule) -> None:
    """Check that each round will be validated, and that its network can be kept and put back.

    Raises:
        ValueError: If not.
    """
    every, given = rule.every_n_epochs, f"stop_on_drop={rule.stop_on_drop}"
    if not trainer.enable_validation:
        raise ValueError(f"{given} needs a validation: give a validation loader and step, or use stop_on_drop=None")
    if _epochs_between_validations(trainer) > every:
        raise ValueError(
            f"{given} needs a validation in every round, but there is none in some {every} epochs: lower "
            "check_val_every_n_epoch or val_check_interval, or raise every_n_epochs"
        )
    if averaging := averaging_callbacks(trainer):
        raise ValueError(
            f"{given} can't return to averaged weights: leave out {type(averaging[0]).__name__}, or use "
            "stop_on_drop=None"
        )


def _epochs_between_validations(trainer: pl.Trainer) -> float:
    if trainer.check_val_every_n_epoch is not None:
        return trainer.check_val_every_n_epoch
    batches = trainer.val_check_batch  # counted over epochs; none where validations are timed
    return 0.0 if batches is None else batches / trainer.num_training_batches


def _summary(rounds: Rounds, metric: str) -> str:
    values = [f"{row.sparsity:.4g}: {'none' if row.value is None else f'{row.value:.4g}'}" for row in rounds.rows]
    back = rounds.returned
    end = "none was validated" if back is None else f"the network is back at round {back.number}, epoch {back.epoch}"
    return f"Reflow trained {len(values) - 1} rounds, {metric} by sparsity {', '.join(values)}; {end}"
