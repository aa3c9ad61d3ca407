"""Private names of Lightning. It takes its objects, and so loads without it."""

from __future__ import annotations

from typing import Any

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


def tensor_parallel_size(strategy: Any) -> int | str:
    """Over how many processes a strategy splits the weights of a layer; ``"auto"`` is one, until it is set up."""
    size: int | str = getattr(strategy, "_tensor_parallel_size", 1)
    return size


def state_key(callback: Any, **arguments: Any) -> str:
    """Under which key a checkpoint holds the state of a callback, told from others of its class by the arguments."""
    key: str = callback._generate_state_key(**arguments)
    return key


def wrapped_sampler(sampler: Any) -> Any:
    """What Lightning's distributed sampler shares out among processes; ``None`` if the sampler is of another kind."""
    return getattr(getattr(sampler, "dataset", None), "_sampler", None)
