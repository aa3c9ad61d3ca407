"""Run a LightningModule beside its training: it sees its trainer, and neither logs nor steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import lightning.pytorch as pl
from lightning.pytorch.loggers.logger import DummyLogger
from torch import nn

from reflow_lightning.running.compat.lightning import is_one, shown_trainer
from reflow_lightning.running.isolation import replaced

_IGNORED = ("log", "log_dict", "log_grad_norm", "print")
_REFUSED = ("optimizers", "manual_backward", "toggle_optimizer", "lr_schedulers")
_UNDER_WAY: WeakKeyDictionary[nn.Module, tuple[ExitStack, int]] = WeakKeyDictionary()  # by module: how many passes


@contextmanager
def silent(trainer: pl.Trainer, model: nn.Module) -> Iterator[None]:
    """Show the trainer to a model, or to a copy of it, for a pass that is not the training's.

    What the model logs meanwhile is thrown away, by ``self.log`` as well as by ``self.logger``. It can't step: where it
    asks for its optimizers, an error says what to pass as the forward instead.

    Several passes may be under way at once: what the first has replaced is put back after the last.

    Args:
        trainer: The running trainer.
        model: The model, with all LightningModules within.
    """
    modules = [module for module in model.modules() if is_one(module, "LightningModule")]
    for module in modules:
        stack, passes = _UNDER_WAY.get(module, (ExitStack(), 0))
        if not passes:
            stack.enter_context(shown_trainer(module, _Shown(trainer)))
            for name in (*_IGNORED, *_REFUSED):
                stack.enter_context(replaced(module, name, _ignore if name in _IGNORED else _refuse))
        _UNDER_WAY[module] = stack, passes + 1
    try:
        yield
    finally:
        for module in modules:
            stack, passes = _UNDER_WAY.pop(module)
            if passes > 1:
                _UNDER_WAY[module] = stack, passes - 1
            else:
                stack.close()


class _Shown:
    """The trainer without its loggers."""

    def __init__(self, trainer: pl.Trainer) -> None:
        vars(self).update(_real=trainer, logger=DummyLogger(), loggers=[DummyLogger()])

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_real"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        """What a pass sets of the trainer, such as ``should_stop``, is the training's business."""


def _ignore(*_: Any, **__: Any) -> None:
    pass


def _refuse(*_: Any, **__: Any) -> None:
    raise RuntimeError(
        "a forward pass beside the training may not step: pass forward='validation_step', or a function "
        "(module, batch) that only runs the network"
    )
