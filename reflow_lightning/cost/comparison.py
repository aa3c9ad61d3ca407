"""Two networks side by side: what a smaller one saves, and how far its output is from the first."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from reflow_lightning.cost.cost import measure_cost
from reflow_lightning.cost.latency import Latency, measure_latency
from reflow_lightning.cost.memory import measure_memory
from reflow_lightning.running.arguments import Arguments, Example, called, example_arguments
from reflow_lightning.running.batches import device_of
from reflow_lightning.running.describing import aligned
from reflow_lightning.running.difference import relative_difference
from reflow_lightning.running.inference import outside_inference
from reflow_lightning.running.isolation import isolated_rng, only_training
from reflow_lightning.running.own import own
from reflow_lightning.running.samples import first_sample


@dataclass(frozen=True)
class Size:
    """The size of a network.

    Attributes:
        layers: Layers with weights that take part in a forward pass.
        channels: Output channels and features of its convolutions and linear layers.
        parameters: Numbers in all of its parameters.
        multiply_adds: Of one sample.
        peak_bytes: The most that the tensors of a forward pass take at one moment.
        file_bytes: Of the saved state dictionary.
    """

    layers: int
    channels: int
    parameters: int
    multiply_adds: int
    peak_bytes: int
    file_bytes: int


@dataclass(frozen=True)
class Comparison:
    """A network before and after it was made smaller.

    Attributes:
        before: The size of the first network.
        after: The size of the second.
        latency: Both, measured side by side.
        largest_difference: Between their outputs: the largest absolute one, over the largest absolute value before.
    """

    before: Size
    after: Size
    latency: Latency
    largest_difference: float

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {**asdict(self), "latency": self.latency.to_dict()}

    def __str__(self) -> str:
        before, after = asdict(self.before), asdict(self.after)
        rows = [["", "before", "after", "saved"]]
        rows += [
            [title, _shown(key, before[key]), _shown(key, after[key]), _saved(before[key], after[key])]
            for key, title in _TITLES.items()
        ]
        return "\n".join(
            [aligned(rows), f"latency: {self.latency}", f"largest difference: {self.largest_difference:.1e}"]
        )


_TITLES = {
    "layers": "layers",
    "channels": "channels",
    "parameters": "parameters",
    "multiply_adds": "multiply-adds",
    "peak_bytes": "peak memory",
    "file_bytes": "file of the weights",
}


@outside_inference()
def compare(
    before: nn.Module,
    after: nn.Module,
    example_input: Example,
    *,
    rounds: int = 30,
    threads: int | None = None,
) -> Comparison:
    """Compare two networks that shall do the same, in eval mode. Neither is changed.

    Args:
        before: The first network.
        after: The second, on the same device.
        example_input: A batch (N, ...), a tuple of all positional arguments, or a mapping; moved to their device.
            Latency and memory are measured with the whole batch.
        rounds: Runs of each for the latency.
        threads: Threads for the CPU, for the latency; ``None`` leaves their number as it is.

    Raises:
        ValueError: If their outputs have different shapes, or an argument is out of range.

    Example:
        >>> wide = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)).requires_grad_(False)
        >>> narrow = nn.Linear(4, 2)
        >>> narrow.weight.data, narrow.bias.data = wide[1].weight @ wide[0].weight, wide(torch.zeros(4))
        >>> found = compare(wide, narrow, torch.randn(16, 4), rounds=2)
        >>> found.before.layers, found.after.layers, found.before.channels, found.after.channels
        (2, 1, 10, 2)
        >>> found.largest_difference < 1e-5
        True
    """
    inputs = example_arguments(before, example_input, device_of(before))
    return Comparison(
        largest_difference=relative_difference(_output(before, inputs), _output(after, inputs)),
        before=measure_size(before, inputs),
        after=measure_size(after, inputs),
        latency=measure_latency(before, after, inputs, rounds=rounds, threads=threads),
    )


def measure_size(model: nn.Module, example_input: Example) -> Size:
    """Measure the size of a network.

    Args:
        model: Any module.
        example_input: A batch (N, ...), a tuple of all positional arguments, or a mapping; moved to the model's device.
            Multiply-adds are counted on the first sample; tensors of another length than N are left whole.

    Example:
        >>> measure_size(nn.Linear(4, 2), torch.zeros(3, 4)).multiply_adds
        8
    """
    inputs = example_arguments(model, example_input, device_of(model))
    cost, memory = measure_cost(model, first_sample(inputs)), measure_memory(model, inputs)
    running = [layer.name for layer in cost.layers if layer.multiply_adds]
    return Size(
        layers=len(running),
        channels=sum(_channels(model.get_submodule(name)) for name in running),
        parameters=cost.parameters,
        multiply_adds=cost.multiply_adds,
        peak_bytes=memory.peak_bytes,
        file_bytes=memory.file_bytes,
    )


def _output(model: nn.Module, inputs: Arguments) -> Any:
    with isolated_rng(), only_training(model, ()), torch.no_grad():
        return called(model, own(inputs))


def _channels(module: nn.Module) -> int:
    return int(getattr(module, "out_channels", getattr(module, "out_features", 0)))


def _shown(key: str, value: int) -> str:
    return f"{value / 1024:,.1f} KiB" if key.endswith("bytes") else f"{value:,}"


def _saved(before: int, after: int) -> str:
    return f"{100 * (1 - after / before):.1f} %" if before else ""
