"""The entropy of every rectifier of a network, batch by batch, and over processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reflow_lightning.layers.padding import Valid
from reflow_lightning.running.compat.torch import Unwatched
from reflow_lightning.running.exact import exact_device
from reflow_lightning.signal.leaving import leaving_out, merge_reasons
from reflow_lightning.signal.neurons import NeuronCounts, NeuronStates, layer_entropy, neuron_entropy, neuron_states
from reflow_lightning.signal.rectifiers import Rectified, watching_rectifiers
from reflow_lightning.signal.statistic import computed


@dataclass(frozen=True)
class LayerEntropy:
    """How often the rectifier after a layer switches, over all samples and positions.

    A neuron, which is a channel, is saturated if it stays on one side of zero, and below the ceiling of a ReLU6 or
    above it: the rectifier adds no non-linearity there. That is exact for ReLU, ReLU6, LeakyReLU, PReLU and RReLU. The
    smooth ones, GELU, SiLU, Hardswish and ELU, are still bent on one side of zero or on both, and linear only far from
    it. Values of exactly zero count as neither side.

    Attributes:
        layer: Name of the weighted layer before the rectifier.
        kind: The rectifier, or several, joined by "+".
        neurons: Number of neurons.
        entropy: Mean over all neurons of the entropy of their state, in bits (arXiv 2404.16890).
        switching_entropy: The same over the neurons that are not saturated; 0 if all are.
        saturated: Share of neurons that are saturated.
        always_on: Share of neurons that are never off nor above the ceiling, but on.
        always_off: Share of neurons that are never on; neurons of nothing but zeros are among them.
    """

    layer: str
    kind: str
    neurons: int
    entropy: float
    switching_entropy: float
    saturated: float
    always_on: float
    always_off: float

    @property
    def linear(self) -> bool:
        """Whether all neurons are saturated, so that the layer has collapsed on these data."""
        return self.saturated == 1

    @classmethod
    def of(cls, layer: str, kind: str, counts: NeuronCounts) -> LayerEntropy:
        """The row of a layer.

        Example:
            >>> counts = NeuronCounts(*torch.tensor([[2.0, 4.0], [2.0, 0.0], [0.0, 0.0], [0.0, 0.0]]))
            >>> LayerEntropy.of("conv1", "relu", counts).always_on
            0.5
        """
        saturated = neuron_entropy(counts) == 0
        quiet = counts.above == 0
        return cls(
            layer=layer,
            kind=kind,
            neurons=len(saturated),
            entropy=layer_entropy(counts),
            switching_entropy=layer_entropy(counts, saturated=False),
            saturated=_share(saturated),
            always_on=_share((counts.off == 0) & quiet & (counts.on > 0)),
            always_off=_share((counts.on == 0) & quiet),
        )


class RectifierStates:
    """The states of the neurons before every rectifier that a network runs, without padding where that is known.

    A layer whose output enters several rectifiers is counted once, with the values of all. Where these differ in the
    number of channels, as after a slice, the neurons of each number are neurons of their own. After a concatenation of
    channels each layer is counted with its own.

    Args:
        model: The network.

    Attributes:
        left_out: Why layers can't be counted, by name; they have no row.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> states = RectifierStates(model)
        >>> with states.counting(model):
        ...     _ = model(torch.randn(32, 4))
        >>> [(row.layer, row.neurons) for row in states.rows()]
        [('0', 8)]
    """

    def __init__(self, model: nn.Module) -> None:
        self.states: dict[tuple[str, str, int], NeuronStates] = {}
        self.left_out: dict[str, str] = {}
        self._device = exact_device(next(model.parameters(), torch.zeros(0)))

    @contextmanager
    def counting(self, model: nn.Module, valid: Valid | None = None) -> Iterator[None]:
        """Count the states during the block, which runs the model on a batch whose data are at the `Valid` places."""

        def take_in(call: Rectified) -> None:
            if call.layer not in self.left_out:
                with Unwatched(), leaving_out(self.left_out, call.layer):
                    self._take_in(call, valid or Valid())

        with watching_rectifiers(model, take_in):
            yield

    def _take_in(self, call: Rectified, valid: Valid) -> None:
        key = (call.layer, call.kind, channels := call.values.shape[call.dim])
        rows = valid.rows(call.values, call.dim)
        found = neuron_states(rows, call.dim if rows is call.values else -1, ceiling=call.ceiling)
        if key not in self.states:
            self.states[key] = self._empty(key, channels)
        self.states[key].update(found)

    def _empty(self, key: tuple[str, str, int], channels: int) -> NeuronStates:
        return NeuronStates(channels).to(self._device)

    def counts(self) -> dict[str, tuple[str, NeuronCounts]]:
        """Kind of the rectifiers after each layer, and the states of its neurons, in the order in which they ran.

        Where processes run together, they cover the batches of all; each must call this, batches or not.
        """
        merge_reasons(self.left_out)
        counted = {key: states for key, states in self.states.items() if key[0] not in self.left_out}
        by_width: dict[str, dict[int, Tensor]] = {}
        kinds: dict[str, dict[str, None]] = {}
        for (layer, kind, channels), counts in computed(counted, self._empty).items():
            found, widths = torch.stack(counts), by_width.setdefault(layer, {})
            widths[channels] = widths[channels] + found if channels in widths else found
            kinds.setdefault(layer, {})[kind] = None
        return {
            layer: ("+".join(kinds[layer]), NeuronCounts(*torch.cat(list(widths.values()), dim=1)))
            for layer, widths in by_width.items()
        }

    def rows(self) -> tuple[LayerEntropy, ...]:
        """One row a layer; see `counts`."""
        return tuple(LayerEntropy.of(layer, kind, counts) for layer, (kind, counts) in self.counts().items())


def _share(neurons: Tensor) -> float:
    return float(neurons.double().mean()) if len(neurons) else 0.0
