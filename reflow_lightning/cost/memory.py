"""What a network takes up: memory of a forward pass, bytes of its parameters, bytes of its file."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass

import torch
from torch import nn

from reflow_lightning.running.arguments import Arguments, Example, called, example_arguments
from reflow_lightning.running.batches import device_of
from reflow_lightning.running.eager import eager
from reflow_lightning.running.inference import outside_inference
from reflow_lightning.running.isolation import isolated_rng, only_training
from reflow_lightning.running.live import LiveTensors


@dataclass(frozen=True)
class Memory:
    """What a network takes up, in bytes.

    Attributes:
        peak_bytes: The most that the tensors made in a forward pass take at one moment. Parameters and the input are
            not counted, since they were there before.
        parameter_bytes: All parameters and buffers.
        file_bytes: What `torch.save` writes of the state dictionary.
    """

    peak_bytes: int
    parameter_bytes: int
    file_bytes: int

    def to_dict(self) -> dict[str, int]:
        """Plain types, for JSON."""
        return asdict(self)


@outside_inference()
def measure_memory(model: nn.Module, example_input: Example) -> Memory:
    """Measure the memory of a forward pass in eval mode and without gradients, and what the network itself takes.

    On CUDA, torch's allocator tells the peak, and its own record of a peak is reset. Elsewhere the peak is the sum of
    the tensors that are alive; what a kernel needs within itself is not seen.

    Args:
        model: Any module.
        example_input: A batch (N, ...), a tuple of all positional arguments, or a mapping; moved to the model's device.

    Example:
        >>> model = nn.Sequential(nn.Linear(10, 100, bias=False), nn.Flatten(), nn.Linear(100, 10, bias=False))
        >>> memory = measure_memory(model, torch.zeros(2, 10))
        >>> memory.peak_bytes, memory.parameter_bytes
        (880, 8000)
    """
    tensors = {tensor.data_ptr(): tensor for tensor in (*model.parameters(), *model.buffers())}
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return Memory(
        peak_bytes=_peak(model, example_arguments(model, example_input, device_of(model))),
        parameter_bytes=sum(tensor.nbytes for tensor in tensors.values()),
        file_bytes=buffer.getbuffer().nbytes,
    )


def _peak(model: nn.Module, inputs: Arguments) -> int:
    device = device_of(model)
    with isolated_rng(), only_training(model, ()), torch.no_grad(), eager():
        if device.type == "cuda":
            return _peak_of_allocator(model, inputs, device)
        live = LiveTensors()
        with live:
            called(model, inputs)
        return live.peak


def _peak_of_allocator(model: nn.Module, inputs: Arguments, device: torch.device) -> int:
    called(model, inputs)  # the first pass also makes what the libraries keep
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    called(model, inputs)
    return int(torch.cuda.max_memory_allocated(device) - before)
