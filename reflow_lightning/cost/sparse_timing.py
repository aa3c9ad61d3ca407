"""How long layers take within their network: with the inputs they get there, and what the others leave in the cache."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from statistics import median
from typing import Any

from torch import nn

from reflow_lightning.cost.latency import Clock, busy_clock, paired_latency
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.hooks import Call, watching, watching_inputs


class Runs(nn.Module):
    """Runs a network on an example, which is its one argument.

    Example:
        >>> import torch
        >>> Runs(nn.ReLU(), lambda model, example: model(example["x"]))({"x": torch.ones(1)})
        tensor([1.])
    """

    def __init__(self, model: nn.Module, run: Forward) -> None:
        super().__init__()
        self.model, self.run = model, run

    def forward(self, example: Any) -> Any:
        """Run the network."""
        return self.run(self.model, example)


def layer_seconds(
    networks: Mapping[str, nn.Module],
    names: Iterable[str],
    run: Forward,
    example: Any,
    *,
    rounds: int,
    clock: Clock | None = None,
) -> dict[str, dict[str, float]]:
    """Time layers of several networks, which are run by turns; see `reflow_lightning.cost.paired_latency`.

    Args:
        networks: Networks by name.
        names: Names of modules that are in all of them, and are called.
        run: ``(network, example) -> anything``.
        example: What the networks are run on.
        rounds: Turns of each.
        clock: Tells seconds; by default `busy_clock` chooses one.

    Returns:
        By network and module the seconds of all its calls in a forward pass, the median over the passes.

    Example:
        >>> import torch
        >>> networks = {"wide": nn.Sequential(nn.Linear(999, 999)), "narrow": nn.Sequential(nn.Linear(999, 1))}
        >>> seconds = layer_seconds(networks, ["0"], nn.Module.__call__, torch.ones(64, 999), rounds=3)
        >>> seconds["wide"]["0"] > seconds["narrow"]["0"]
        True
    """
    clock = clock or busy_clock()
    names = list(names)
    if not names:
        return {key: {} for key in networks}
    timers = {key: _Timer(clock) for key in networks}
    with ExitStack() as stack:
        for key, network in networks.items():
            stack.enter_context(watching_inputs(network, names, timers[key].start))
            stack.enter_context(watching(network, names, timers[key].stop))
        timed = {key: _Timed(network, run, timers[key]) for key, network in networks.items()}
        paired_latency(timed, (example,), rounds=rounds, clock=clock)
    return {key: {name: median(seconds[name] for seconds in timers[key].passes) for name in names} for key in networks}


class _Timer:
    """Seconds of modules in each pass of a network; it lies outside of the network, which is left as it was."""

    def __init__(self, clock: Clock) -> None:
        self.passes: list[dict[str, float]] = []
        self._clock = clock
        self._started: dict[str, float] = {}

    def start(self, name: str, _: Call) -> None:
        self._started[name] = self._clock()

    def stop(self, name: str, _: Call) -> None:
        now = self._clock()
        self.passes[-1][name] += now - self._started[name]


class _Timed(Runs):
    def __init__(self, model: nn.Module, run: Forward, timer: _Timer) -> None:
        super().__init__(model, run)
        self.timer = timer

    def forward(self, example: Any) -> Any:
        self.timer.passes.append(defaultdict(float))
        return super().forward(example)
