"""Batches to calibrate and measure on: moved to the model, limited, counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from reflow_lightning.running.alike import Alike
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.nested import mapped
from reflow_lightning.running.processes import gather, warn
from reflow_lightning.running.world import share, world_size

BAR_DELAY = 2.0
"""Seconds after which a pass is long enough for a progress bar."""

MOST_BATCHES = 200
"""Where ``"auto"`` ends at the latest, on all processes together."""

Limit = int | Literal["auto"]


def move(batch: Any, device: torch.device) -> Any:
    """Move all of a nested batch that has a ``to``, as Lightning does; a ``to`` that returns nothing moves in place.

    A tensor that was made in inference mode is copied, for there are neither gradients of it nor changes in place. A
    GPU fetches pinned memory while the CPU goes on.

    Example:
        >>> move({"x": [torch.ones(1), "name"]}, torch.device("cpu"))
        {'x': [tensor([1.]), 'name']}
    """
    return mapped(partial(_to, device=device), batch, _can_be_moved)


def _can_be_moved(value: Any) -> bool:
    return not isinstance(value, type) and callable(getattr(value, "to", None))


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        pinned = (
            device.type == "cuda" and value.is_pinned()
        )  # on the way back, the CPU would read what is not there yet
        return value.to(device, non_blocking=pinned, copy=value.is_inference())
    moved = value.to(device)
    return value if moved is None else moved


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter or buffer, or the CPU."""
    tensors = (tensor for group in (model.parameters(), model.buffers()) for tensor in group)
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def check_limit(name: str, limit: int | str, least: int = 1) -> None:
    """Check a number of batches that a user asks for.

    Args:
        name: The argument, for the message.
        limit: A whole number, or ``"auto"``.
        least: The least number.

    Raises:
        ValueError: If it is neither.

    Example:
        >>> check_limit("max_batches", "many")
        Traceback (most recent call last):
        ValueError: max_batches='many' must be a whole number of at least 1, or 'auto'
    """
    counts = isinstance(limit, int) and not isinstance(limit, bool) and limit >= least
    if not counts and limit != "auto":
        raise ValueError(f"{name}={limit!r} must be a whole number of at least {least}, or 'auto'")


def at_most(limit: Limit, number: int) -> int:
    """The number, or the limit if that is less.

    Example:
        >>> at_most(3, 4), at_most("auto", 4)
        (3, 4)
    """
    return number if limit == "auto" else min(limit, number)


def progress_bar(over: Iterable[Any] | None, shown: bool, **options: Any) -> tqdm[Any]:
    """A bar over something, or with a ``total`` of its own, for what takes long; it goes when that is over."""
    hidden = None if shown else True  # None: hidden where the output is no terminal
    return tqdm(over, delay=BAR_DELAY, leave=False, disable=hidden, **options)


@contextmanager
def without_bar(batches: Iterable[Any]) -> Iterator[bool]:
    """A block whose passes over `Batches` show no bar, since it has one of its own; gives whether it shall show one."""
    shown = isinstance(batches, Batches) and batches.progress
    if isinstance(batches, Batches):
        batches.progress = False
    try:
        yield shown
    finally:
        if isinstance(batches, Batches):
            batches.progress = shown


_MANY = 10
"""A pass that got this many batches causes no warning that more were allowed."""

_DEFAULTS = (50, 10)
"""Limits that stand in signatures, of calibration and of measuring: nobody asked for so many batches."""


class Batches:
    """At most ``max_batches`` batches, on a device, and how many there were.

    Each iteration is a new pass over the source.

    Args:
        batches: Any iterable of batches.
        max_batches: At most so many. It may be 0 beside other processes. ``"auto"``: as many as the statistics need,
            which `reflow_lightning.calibration.enough.read` decides, at most `MOST_BATCHES` on
            all processes together.
        device: Where they go.
        task: What is being done, for the progress bar and for messages.
        progress: Show a bar once the pass has taken two seconds.

    Attributes:
        auto: Whether the number was left open.
        max_batches: At most so many, as a number.
        count: How many there were in the longest pass.
        imprecise: Why the batches were too few for ``"auto"``, in words, once that is known.

    Raises:
        ValueError: If ``max_batches`` is less than 1, or when an iterator is asked for a second pass.
        TypeError: If ``batches`` is a single tensor, or can't be iterated over.

    Example:
        >>> list(Batches([torch.ones(1), torch.ones(1)], 1, torch.device("cpu"), task="looking"))
        [tensor([1.])]
    """

    def __init__(
        self, batches: Iterable[Any], max_batches: Limit, device: torch.device, *, task: str, progress: bool = False
    ) -> None:
        check_limit("max_batches", max_batches, least=1 if world_size() == 1 else 0)
        if isinstance(batches, Tensor):
            raise TypeError(f"batches is a tensor of shape {tuple(batches.shape)}: pass a loader or a list, [tensor]")
        if not hasattr(batches, "__iter__") and not hasattr(batches, "__getitem__"):
            raise TypeError(f"batches is a {type(batches).__name__}: pass a loader or a list of batches")
        self.batches, self.device, self.task, self.progress = batches, device, task, progress
        self.auto = max_batches == "auto"
        self.max_batches = share(MOST_BATCHES) if max_batches == "auto" else max_batches
        self.imprecise: str | None = None
        self.count = 0
        self.asked = self.exhausted = False
        self._read: Iterator[Any] | None = None
        self._begun: Iterator[Any] | None = None
        self._first: list[Any] | None = None
        self._alike = Alike()

    def __iter__(self) -> Iterator[Any]:
        self.asked = True
        begun, self._begun = self._begun, None
        return self._limited(self._pass() if begun is None else begun)

    def first(self) -> Iterator[Any]:
        """A pass over the first batch alone, if there is one.

        It is read once and kept, and the next pass begins with it, so that it is not drawn twice.
        """
        if self._first is None:
            source = self._pass()
            read = list(islice(source, min(1, self.max_batches)))
            self._begun = chain(read, source)
            self._first = [move(batch, self.device) for batch in read]
        return self._alike.each(self._first)

    def _pass(self) -> Iterator[Any]:
        source = iter(self.batches)
        # What has a length begins anew, such as the iterator of a loader with persistent workers, which is always one.
        if source is self._read and not hasattr(source, "__len__"):
            raise self._read_already()
        self._read = source
        return source

    def _read_already(self) -> ValueError:
        return ValueError(
            f"batches={type(self.batches).__name__} can be read only once: pass a list or a loader, since "
            f"this {'repair' if self.task == 'calibration' else self.task} reads the batches several times"
        )

    def alike(self, forward: Forward) -> Forward:
        """A forward pass that is alike for every network and in every pass over these batches; see `Alike`."""
        return self._alike.forward(forward)

    def _limited(self, source: Iterator[Any]) -> Iterator[Any]:
        total = None if self.auto else self.max_batches
        count = 0
        with progress_bar(None, self.progress, total=total, desc=self.task, unit="batch") as bar:
            moved = (move(batch, self.device) for batch in islice(source, self.max_batches))
            for count, batch in enumerate(self._alike.each(moved), 1):
                self.count = max(self.count, count)
                yield batch
                bar.update()
        if self.count and not count:
            raise self._read_already()
        self.exhausted |= count < self.max_batches

    def check(self) -> None:
        """Check, when the pass is over, that there were batches. Where processes run together, all must call it.

        It is enough if one of them had any. A warning says if there were few, and fewer than somebody asked for, or
        than are needed.

        Raises:
            ValueError: If nothing came on any process, although it was asked for.
        """
        asked, exhausted, got, wanted = zip(
            *gather((self.asked, self.exhausted, self.count, self.max_batches)), strict=True
        )
        if any(asked) and not sum(got):
            kind = type(self.batches).__name__
            raise ValueError(f"batches={kind} gave no batch for {self.task}: pass a loader that is not empty")
        if self.imprecise is not None:
            warn(
                f"{self.task} got {sum(got)} batches, too few for precise statistics: {self.imprecise}. Give more "
                "data, or larger batches, in random order",
            )
        if any(exhausted) and not self.auto and sum(got) < _MANY and sum(wanted) not in _DEFAULTS:
            hint = " (in Reflow: calibration_batches)" if self.task == "calibration" else ""
            warn(
                f"{self.task} got {sum(got)} batches, all there were, instead of max_batches={sum(wanted)}: give more "
                f"data, or ask for {sum(got)} if that is enough{hint}",
            )
