"""Measured latency: networks run in turn, so that what else the machine does meets all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from reflow_lightning.running.arguments import Example, batch_size, called, example_arguments
from reflow_lightning.running.batches import device_of
from reflow_lightning.running.inference import outside_inference
from reflow_lightning.running.isolation import isolated_rng, only_training

LEAST_SECONDS = 0.01
"""A run repeats the forward pass until it takes as long, so that the clock's own error is small."""

Clock = Callable[[], float]
"""Tells seconds since a moment of its own choice."""


def busy_clock() -> Clock:
    """A clock that stands still while a CPU runs other programs, if one thread does all the work; else the usual one.

    Where several programs share a processor, each runs for some milliseconds at a time, and a network that is faster
    may wait for longer than it runs.

    Example:
        >>> clock = busy_clock()
        >>> clock() <= clock()
        True
    """
    return time.thread_time if torch.get_num_threads() == 1 else time.perf_counter


@dataclass(frozen=True)
class Latency:
    """The latency of two networks, measured side by side.

    Attributes:
        before: Seconds of a forward pass of the first, the median over the rounds.
        after: The same of the second.
        speedup: The median of the rounds' ratios, before over after.
        speedup_range: The 10 and the 90 % quantile of these ratios.
        rounds: How often both were run.
        batch_size: Samples in a forward pass.
        threads: Threads that a CPU used.
        device: Where they ran.
    """

    before: float
    after: float
    speedup: float
    speedup_range: tuple[float, float]
    rounds: int
    batch_size: int
    threads: int
    device: str

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {**asdict(self), "speedup_range": list(self.speedup_range)}

    def __str__(self) -> str:
        low, high = self.speedup_range
        return (
            f"{1e3 * self.before:.3g} ms before, {1e3 * self.after:.3g} ms after: {self.speedup:.2f} times as fast, "
            f"the median of {self.rounds} pairs ({low:.2f} to {high:.2f}); batch of {self.batch_size}, {self.device}"
        )


@outside_inference()
def measure_latency(
    before: nn.Module,
    after: nn.Module,
    example_input: Example,
    *,
    rounds: int = 30,
    warmup: int = 3,
    threads: int | None = None,
    clock: Clock = time.perf_counter,
) -> Latency:
    """Measure how much faster one network is than another, in eval mode and without gradients.

    A machine that is busy slows both runs of a round alike, and hardly moves their ratio.

    Args:
        before: The first network.
        after: The second.
        example_input: A batch (N, ...), a tuple of all positional arguments, or a mapping; moved to their devices.
        rounds: Runs of each network. Their order is turned round every time.
        warmup: Forward passes before anything is measured.
        threads: Threads for the CPU; ``None`` leaves their number as it is.
        clock: Tells seconds; see `paired_latency`.

    Raises:
        ValueError: If ``rounds`` or ``warmup`` or ``threads`` is less than 1.

    Example:
        >>> wide, narrow = nn.Linear(1000, 1000), nn.Linear(10, 10)
        >>> wide = nn.Sequential(nn.Linear(10, 1000), wide)
        >>> measure_latency(wide, narrow, torch.zeros(64, 10), rounds=3).speedup > 1
        True
    """
    with _threads(threads):
        used = torch.get_num_threads()
        models = {"before": before, "after": after}
        seconds = paired_latency(models, example_input, rounds=rounds, warmup=warmup, clock=clock)
    first, second = (torch.tensor(seconds[name], dtype=torch.float64) for name in ("before", "after"))
    quantiles = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    low, speedup, high = (first / second).quantile(quantiles).tolist()
    return Latency(
        before=float(first.quantile(0.5)),
        after=float(second.quantile(0.5)),
        speedup=speedup,
        speedup_range=(low, high),
        rounds=rounds,
        batch_size=batch_size(example_arguments(after, example_input, device_of(after))),
        threads=used,
        device=str(device_of(after)),
    )


@outside_inference()
def paired_latency(
    models: Mapping[str, nn.Module],
    example_input: Example,
    *,
    rounds: int = 30,
    warmup: int = 3,
    clock: Clock = time.perf_counter,
) -> dict[str, tuple[float, ...]]:
    """Time the forward passes of several networks, one after the other in every round.

    Args:
        models: Networks by name. They run in eval mode, without gradients.
        example_input: A batch (N, ...), a tuple of all positional arguments, or a mapping; moved to their devices.
        rounds: Runs of each network. Their order is turned round every time.
        warmup: Forward passes of each before anything is measured.
        clock: Tells seconds. `busy_clock` gives one that other programs do not disturb.

    Returns:
        Seconds of a forward pass by name, one value a round; values at the same place belong to the same round.

    Raises:
        ValueError: If ``rounds`` or ``warmup`` is less than 1.

    Example:
        >>> times = paired_latency({"a": nn.Linear(4, 4), "b": nn.ReLU()}, torch.zeros(2, 4), rounds=2)
        >>> {name: len(seconds) for name, seconds in times.items()}
        {'a': 2, 'b': 2}
    """
    for name, count in (("rounds", rounds), ("warmup", warmup)):
        if isinstance(count, bool) or count < 1:
            raise ValueError(f"{name}={count} must be at least 1")
    with ExitStack() as stack:
        stack.enter_context(isolated_rng())
        for model in models.values():
            stack.enter_context(only_training(model, ()))
        stack.enter_context(torch.no_grad())  # what a network keeps of inference_mode it can't be trained with
        runs = {name: _run(model, example_input, clock) for name, model in models.items()}
        for run in runs.values():
            run(warmup)
        repeats = {name: _repeats(run) for name, run in runs.items()}
        seconds: dict[str, list[float]] = {name: [] for name in models}
        order = list(models)
        for _ in range(rounds):
            for name in order:
                seconds[name].append(runs[name](repeats[name]))
            order.reverse()
    return {name: tuple(values) for name, values in seconds.items()}


def _run(model: nn.Module, example_input: Example, clock: Clock) -> Callable[[int], float]:
    """A function that runs the model so often, and returns the seconds of one pass."""
    device = device_of(model)
    arguments = example_arguments(model, example_input, device)
    wait: Callable[[], Any] = partial(torch.accelerator.synchronize, device) if device.type != "cpu" else _no_wait

    def run(repeats: int) -> float:
        wait()
        start = clock()
        for _ in range(repeats):
            called(model, arguments)
        wait()
        return (clock() - start) / repeats

    return run


def _no_wait() -> None:
    """A CPU has done its work when a call returns."""


def _repeats(run: Callable[[int], float]) -> int:
    """How many passes take at least `LEAST_SECONDS`."""
    repeats = 1
    while run(repeats) * repeats < LEAST_SECONDS:
        repeats *= 2
    return repeats


@contextmanager
def _threads(threads: int | None) -> Iterator[None]:
    if threads is not None and threads < 1:
        raise ValueError(f"threads={threads} must be at least 1, or None for as many as now")
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
