"""How often each rectifier of a network switches: where pruning has made the network linear."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from reflow_lightning.layers.padding import Padding
from reflow_lightning.running.as_forward import AnyForward, as_forward
from reflow_lightning.running.batches import Batches, Limit, device_of
from reflow_lightning.running.inference import outside_inference
from reflow_lightning.running.isolation import isolated_rng, only_training
from reflow_lightning.running.processes import gather, together
from reflow_lightning.running.units import runnable
from reflow_lightning.signal.layer_entropy import LayerEntropy, RectifierStates
from reflow_lightning.signal.leaving import warn_of_left_out
from reflow_lightning.signal.report import format_table


@dataclass(frozen=True)
class EntropyReport:
    """The entropy of the rectifiers of a network, layer by layer.

    Attributes:
        rows: One row for every weighted layer whose output enters a rectifier, in the order in which they ran.
        batches: Number of batches measured.

    Example:
        >>> row = LayerEntropy("conv1", "relu", 8, 0.5, 0.8, saturated=0.375, always_on=0.25, always_off=0.125)
        >>> print(EntropyReport((row,), batches=1))
        layer  kind  neurons  entropy  switching_entropy  saturated  always_on  always_off
        conv1  relu        8    0.500              0.800      0.375      0.250       0.125
    """

    rows: tuple[LayerEntropy, ...]
    batches: int

    @property
    def linear(self) -> tuple[str, ...]:
        """Names of the layers that have collapsed on these data: their rectifiers never switch."""
        return tuple(row.layer for row in self.rows if row.linear)

    def table(self) -> str:
        """The rows as text."""
        return format_table(self.to_dict()["layers"])

    __str__ = table

    def to_dict(self) -> dict[str, Any]:
        """Plain types: ``{"batches": .., "layers": [{"layer": .., "entropy": .., ..}, ..]}``."""
        return {"batches": self.batches, "layers": [asdict(row) for row in self.rows]}


@outside_inference()
@torch.no_grad()
def measure_entropy(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    max_batches: Limit = 50,
    forward: AnyForward | None = None,
    progress: bool = True,
) -> EntropyReport:
    """Measure how often the rectifiers of a network switch in eval mode; nothing in it is changed.

    The entropy of *Layer Collapse Can be Induced by Unstructured Pruning* (arXiv 2404.16890): of each neuron it is
    taken once, of the counts over all data. A layer of entropy 0 is linear on these data, which may be too few to tell.

    Where processes run together, call it on all of them, each with its own batches or none: the report covers the
    union, and if one fails, all raise. A model under `fully_shard` is held whole one unit at a time. Padding does not
    count where it is known; see `measure_signal`.

    Args:
        model: Any module; see `watching_rectifiers` for the rectifiers that are known.
        batches: Any iterable of batches.
        max_batches: At most so many batches; ``"auto"`` stands for 200.
        forward: ``(model, batch) -> anything``; by default as in `reflow_lightning.calibrate`.
        progress: Show a bar in a terminal if it takes more than two seconds.

    Raises:
        ValueError: If there is no batch or no sample, or no rectifier with a weighted layer before it.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> _ = nn.init.constant_(model[2].bias, 100.0)
        >>> measure_entropy(model, [torch.randn(256, 4)], max_batches=1).linear
        ('2',)
    """
    moved = Batches(batches, max_batches, device_of(model), task="entropy measurement", progress=progress)
    run = moved.alike(as_forward(forward))
    with runnable(model) as network, only_training(network, ()), isolated_rng(), together("entropy measurement"):
        states, padding = RectifierStates(network), Padding(network)
        for batch in moved:
            with states.counting(network, padding.of(network, batch, run)):
                run(network, batch)
    moved.check()
    counts = states.counts()
    warn_of_left_out(states.left_out)
    if counts and not any(float(torch.stack(c).sum()) for _, c in counts.values()):
        raise ValueError("the batches hold no sample: pass some that do")
    rows = tuple(LayerEntropy.of(layer, kind, found) for layer, (kind, found) in counts.items())
    if not rows:
        raise ValueError(
            f"the batches reached no rectifier after a weighted layer of {type(model).__name__}: look at forward; "
            "known are ReLU, ReLU6, LeakyReLU, PReLU, RReLU, GELU, SiLU, Hardswish and ELU, as modules or functions"
        )
    return EntropyReport(rows, sum(gather(moved.count)))
