"""Private names of Lightning. It takes its objects, and so loads without it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeGuard

from torch import nn
from torch.optim.swa_utils import AveragedModel


def logged_step(trainer: Any) -> int:
    """The step that Lightning itself logs with: the batches that stepped, by any optimizer."""
    step: int = trainer.fit_loop.epoch_loop._batches_that_stepped
    return step


def before_transfer(module: Any, batch: Any) -> Any:
    """Run the hooks of a LightningModule and its data module that come before a batch is moved to the device."""
    return module._on_before_batch_transfer(batch, dataloader_idx=0)


def averaged_by(callback: Any) -> nn.Module | None:
    """The module in which a callback such as `WeightAveraging` keeps averages of the weights, once it has begun to."""
    average = getattr(callback, "_average_model", None)
    has_begun = getattr(callback, "_initialized", True)  # before, SWA holds a copy of the first weights
    if not has_begun or not isinstance(average, nn.Module):
        return None
    return average.module if isinstance(average, AveragedModel) else average


def split_data_only(strategy: Any, processes: int) -> None:
    """Have a strategy that is not set up yet share out the data over so many processes, and split no layer."""
    strategy._data_parallel_size, strategy._tensor_parallel_size = processes, 1


def state_key(callback: Any, **arguments: Any) -> str:
    """Under which key a checkpoint holds the state of a callback, told from others of its class by the arguments."""
    key: str = callback._generate_state_key(**arguments)
    return key


def callbacks_checked() -> list[Any]:
    """The callbacks of the Trainer that is being made, if its check of them is what asks for a callback's state key."""
    frame = inspect.currentframe()
    for _ in range(3):  # this function, the property that calls it, and the check
        if frame is not None and frame.f_code.co_name == "_validate_callbacks_list":
            return list(frame.f_locals.get("callbacks", ()))
        frame = None if frame is None else frame.f_back
    return []


def wrapped_sampler(sampler: Any) -> Any:
    """What Lightning's distributed sampler shares out among processes; ``None`` if the sampler is of another kind."""
    return getattr(getattr(sampler, "dataset", None), "_sampler", None)


def restart_batches(trainer: Any, skipped: int) -> None:
    """Begin the training batches of the present epoch again, and take so many of them without using them.

    Args:
        trainer: The trainer, when its training starts.
        skipped: Number of batches.
    """
    loop = trainer.fit_loop
    for loader in loop._combined_loader.flattened:  # Lightning does so later, when the order has been drawn
        batches = getattr(loader, "batch_sampler", None)
        for sampler in (getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None)):
            if callable(set_epoch := getattr(sampler, "set_epoch", None)):
                set_epoch(loop.epoch_progress.current.processed)
    fetcher = loop._data_fetcher
    iter(fetcher)
    for _ in range(skipped):
        next(fetcher.iterator)


def send_with_results(trainer: Any, name: str, result: Any) -> None:
    """Have a process that Lightning started to train in send something along with its results.

    Args:
        trainer: The trainer in that process; in any other nothing is done.
        name: The main process finds it by this name, beside the metrics, and ignores it.
        result: A function that is called when the training is over.
    """
    launcher = trainer.strategy.launcher
    collect = getattr(launcher, "get_extra_results", None)
    if collect is not None:
        launcher.get_extra_results = lambda trainer: {**collect(trainer), (name, id(result)): result()}


def is_one(value: object, name: str) -> TypeGuard[Any]:
    """Whether an object is of a class of Lightning, be it of ``lightning`` or of its twin ``pytorch_lightning``.

    Both packages have all classes, and neither is a subclass of the other's.

    Args:
        value: Anything.
        name: Name of the class, such as ``"LightningDataModule"``.

    Example:
        >>> import lightning.pytorch as pl
        >>> is_one(pl.LightningDataModule(), "LightningDataModule"), is_one(3, "LightningDataModule")
        (True, False)
    """
    return any(kind.__name__ == name and is_lightning(kind) for kind in type(value).__mro__)


def is_lightning(made: object) -> bool:
    """Whether a class or a function comes with Lightning, be it ``lightning`` or its twin ``pytorch_lightning``."""
    return str(getattr(made, "__module__", "")).partition(".")[0] in (
        "lightning",
        "pytorch_lightning",
        "lightning_fabric",
    )


@contextmanager
def shown_trainer(module: Any, trainer: Any) -> Iterator[None]:
    """Have a LightningModule see an object as its trainer within the block."""
    before = module._trainer
    module._trainer = trainer
    try:
        yield
    finally:
        module._trainer = before
