"""Batches to calibrate and measure on: moved to the model, limited, counted."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, MutableMapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from reflow_lightning.running.processes import gather, warn, world_size

BAR_DELAY = 2.0
"""Seconds after which a pass is long enough for a progress bar."""


def move(batch: Any, device: torch.device) -> Any:
    """Move every tensor of a nested batch; whatever has no ``to`` stays as it is.

    Example:
        >>> move({"x": [torch.ones(1), "name"]}, torch.device("cpu"))
        {'x': [tensor([1.]), 'name']}
    """
    if hasattr(batch, "to"):
        return batch.to(device)
    if isinstance(batch, MutableMapping):
        moved = copy.copy(batch)  # keeps its type
        moved.update({key: move(value, device) for key, value in batch.items()})
        return moved
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(move(value, device) for value in batch))
    if isinstance(batch, (tuple, list)):
        return type(batch)(move(value, device) for value in batch)
    return batch


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter or buffer, or the CPU."""
    tensors = (tensor for group in (model.parameters(), model.buffers()) for tensor in group)
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


class Batches:
    """At most ``max_batches`` batches, on a device, and how many there were.

    Args:
        batches: Any iterable of batches.
        max_batches: At most so many. It may be 0 beside other processes.
        device: Where they go.
        task: What is being done, for the progress bar and for messages.
        progress: Show a bar once the pass has taken two seconds.

    Raises:
        ValueError: If ``max_batches`` is less than 1.
        TypeError: If ``batches`` is a single tensor.

    Example:
        >>> list(Batches([torch.ones(1), torch.ones(1)], 1, torch.device("cpu"), task="looking"))
        [tensor([1.])]
    """

    def __init__(
        self, batches: Iterable[Any], max_batches: int, device: torch.device, *, task: str, progress: bool = False
    ) -> None:
        least = 1 if world_size() == 1 else 0
        if isinstance(max_batches, bool) or not isinstance(max_batches, int) or max_batches < least:
            raise ValueError(f"max_batches={max_batches!r} must be a whole number of at least {least}")
        if isinstance(batches, Tensor):
            raise TypeError(f"batches is a tensor of shape {tuple(batches.shape)}: pass a loader or a list, [tensor]")
        self.batches, self.max_batches, self.device, self.task, self.progress = (
            batches,
            max_batches,
            device,
            task,
            progress,
        )
        self.count = 0
        self.asked = self.exhausted = False

    def __iter__(self) -> Iterator[Any]:
        self.asked = True
        hidden = None if self.progress else True  # None: hidden where the output is no terminal
        with tqdm(
            total=self.max_batches, desc=self.task, unit="batch", delay=BAR_DELAY, leave=False, disable=hidden
        ) as bar:
            for batch in islice(self.batches, self.max_batches):
                self.count += 1
                yield move(batch, self.device)
                bar.update()
        self.exhausted = self.count < self.max_batches

    def check(self) -> None:
        """Check, when the pass is over, that there were batches. Where processes run together, all must call it.

        It is enough if one of them had any; a warning says if there were fewer than asked for.

        Raises:
            ValueError: If nothing came on any process, although it was asked for.
        """
        asked, exhausted, got, wanted = zip(
            *gather((self.asked, self.exhausted, self.count, self.max_batches)), strict=True
        )
        if any(asked) and not sum(got):
            kind = type(self.batches).__name__
            raise ValueError(f"batches={kind} gave no batch for {self.task}: pass a loader that is not empty")
        if any(exhausted):
            hint = " (in Reflow: calibration_batches)" if self.task == "calibration" else ""
            warn(
                f"{self.task} got {sum(got)} batches, all there were, instead of max_batches={sum(wanted)}: give more "
                f"data, or ask for {sum(got)} if that is enough{hint}",
                stacklevel=3,
            )
