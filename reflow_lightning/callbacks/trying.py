"""Which forward pass a training is calibrated with: tried on its first batch, and compared with its first step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn

from reflow_lightning.callbacks.inputs import Inputs, Look, difference, looks_of_parts, watched_layers
from reflow_lightning.callbacks.scope import trained_by
from reflow_lightning.callbacks.trainer import forward_in_precision
from reflow_lightning.pruning.criteria.losses import Loss
from reflow_lightning.running.as_forward import AnyForward
from reflow_lightning.running.generators import generators_in
from reflow_lightning.running.hooks import listening, watching_inputs
from reflow_lightning.running.isolation import isolated_rng, only_training
from reflow_lightning.running.own import own
from reflow_lightning.running.processes import gather, warn


def forward_that_works(
    trainer: pl.Trainer, module: pl.LightningModule, batch: Any, given: AnyForward | None
) -> AnyForward | None:
    """The forward pass that was given; where none was and the default fails, a step of the module that does not.

    A step is run as it is in a training, but nothing is logged and nothing can be stepped; a warning says so.

    Raises:
        Exception: What the forward pass raised, if no step works either.
    """
    try:
        forward_in_precision(trainer, given)(module, own(batch))
    except Exception as error:
        steps = ["training_step"] * module.automatic_optimization + ["validation_step", "predict_step"]
        for step in steps if given is None else []:
            if _works(trainer, module, batch, step):
                warn(
                    f"the default forward fails on batches of this training, since {_reason(module, error)}: Reflow "
                    f"calibrates with forward={step!r}; pass that, or another forward, to choose"
                )
                return step
        raise
    return given


def try_loss(
    trainer: pl.Trainer, module: pl.LightningModule, batch: Any, forward: AnyForward | None, loss: Loss
) -> None:
    """Compute the loss of a criterion for a batch, so that one that does not fit is an error before the training.

    Raises:
        ValueError: If it does not.
    """
    output = forward_in_precision(trainer, forward)(module, own(batch))
    try:
        loss(output, batch)
    except ValueError as error:
        step = "" if forward == "training_step" else "; or pass forward='training_step', for the loss of your training"
        raise ValueError(f"{error}{step}") from None


def _reason(module: nn.Module, error: Exception) -> str:
    """Why a forward pass failed, in a few words; of an error that explains another, the other one."""
    cause = error.__cause__ or error
    if isinstance(cause, NotImplementedError) and type(module).forward is pl.LightningModule.forward:
        return f"{type(module).__name__} has no method forward"
    text = f"{type(module).__name__} raised {type(cause).__name__}: {cause}".split("\n")[0]
    return text if len(text) <= 200 else f"{text[:200]}..."


def _works(trainer: pl.Trainer, module: pl.LightningModule, batch: Any, step: str) -> bool:
    if getattr(type(module), step, None) is getattr(pl.LightningModule, step):
        return False
    reached, watched = Inputs(), watched_layers(module, trained_by(trainer, module))
    try:
        with watching_inputs(module, watched, reached):
            forward_in_precision(trainer, step)(module, own(batch))
    except Exception:  # a step of the user's may raise anything
        return False
    return bool(reached.looks) or not watched


class Comparison:
    """What layers get in a trial of the default forward, and then in the first step of the training.

    Args:
        layers: Their names.
        trial: What they got in the trial.
        parts: What the parts of the batch look like, by the forward that takes each.
        batch: The batch.
        watched: The layers that are compared.
    """

    def __init__(
        self, trial: Mapping[str, Look], parts: Mapping[str, Look], batch: Any, watched: Sequence[str]
    ) -> None:
        self._trial, self._parts, self._batch, self._watched = trial, parts, batch, watched
        self._training = Inputs()
        self._stack = ExitStack()

    @classmethod
    def of_default(cls, trainer: pl.Trainer, module: pl.LightningModule, batch: Any) -> Comparison:
        """Try the default forward in the modes and with the random numbers of the step that follows."""
        seen, parts, watched = Inputs(), looks_of_parts(batch), watched_layers(module, trained_by(trainer, module))
        modes = [layer for layer in module.modules() if layer.training]
        with (
            isolated_rng(generators=generators_in(module)),
            only_training(module, modes),
            watching_inputs(module, watched, seen),
        ):
            try:
                forward_in_precision(trainer, None)(module, own(batch))
            except Exception:  # in train mode alone: then the training will tell
                seen.looks.clear()
        return cls(seen.looks, parts, own(batch), watched)

    def begin(self, module: nn.Module) -> None:
        """The training's step on the batch comes now."""
        if self._trial:
            self._stack.enter_context(listening(module, self._watched, self._training))

    def end(
        self, trainer: pl.Trainer, module: pl.LightningModule, forward: AnyForward | None, is_over: bool
    ) -> AnyForward | None:
        """The step is over: warn if the layers got something else, and say how the model is run from now on.

        That is on the part of the batch that they got, or else by the step itself, if that can be run by itself.

        Args:
            trainer: The running trainer.
            module: The module.
            forward: How the model was run until now.
            is_over: No pruning is to come.
        """
        self.stop()
        training = self._training.looks
        found = difference(self._trial, training) if self._trial else ""
        part = self._part_taken(training)
        told = gather((found, part))  # so that all processes go on alike
        if not any(text for text, _ in told):
            return forward
        agreed = part if found and len(set(told)) == 1 else None
        if not (agreed or is_over):
            agreed = self._step(trainer, module)
        taken = f"Reflow calibrates with forward={agreed!r} from now on; pass forward={agreed!r}, or another, to choose"
        remedy = taken if agreed and not is_over else _REMEDY
        how = next(text for text, _ in told if text)
        warn(f"the default forward is not what the training does: {how}; {remedy}")
        return agreed or forward

    def _part_taken(self, training: Mapping[str, Look]) -> str | None:
        """The part of the batch that the first layer of the trial gets in the training, if it is another one."""
        first = next(iter(self._trial), None)
        if first is None or next(iter(training), None) != first:
            return None
        here, there = self._trial[first], training[first]
        return next((n for n, look in self._parts.items() if look == there != here and look.shape == here.shape), None)

    def _step(self, trainer: pl.Trainer, module: pl.LightningModule) -> str | None:
        """The training step, if it can be run beside the training; it is not tried where it may wait for others."""
        if trainer.world_size > 1 or not module.automatic_optimization:
            return None
        with isolated_rng(generators=generators_in(module)), only_training(module, ()), torch.no_grad():
            return "training_step" if _works(trainer, module, self._batch, "training_step") else None

    def stop(self) -> None:
        """Listen no more."""
        self._stack.close()


_REMEDY = "pass forward='training_step', or a function (module, batch), to calibrate on what is trained"
