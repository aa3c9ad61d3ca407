"""Run a model within a training without leaving a trace in it."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from reflow_lightning.running.snapshot import TrainingFlags


@contextmanager
def isolated_rng(seed: int | None = None) -> Iterator[None]:
    """Leave the random state of Python, NumPy and PyTorch as it was before the block.

    Args:
        seed: Seed for the block; ``None`` goes on from the present state.

    Example:
        >>> state = torch.get_rng_state()
        >>> with isolated_rng(seed=1):
        ...     _ = torch.rand(3)
        >>> torch.equal(state, torch.get_rng_state())
        True
    """
    numpy = sys.modules.get("numpy")
    python_state = random.getstate()
    numpy_state = numpy.random.get_state() if numpy else None
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices):
        try:
            if seed is not None:
                random.seed(seed)
                torch.manual_seed(seed)
                if numpy:
                    numpy.random.seed(seed % 2**32)
            yield
        finally:
            random.setstate(python_state)
            if numpy:
                numpy.random.set_state(numpy_state)


@contextmanager
def only_training(model: nn.Module, layers: Iterable[nn.Module]) -> Iterator[None]:
    """Put the given layers in train mode and all others in eval mode; afterwards every flag is what it was."""
    flags = TrainingFlags(model.modules())
    training = {id(layer) for layer in layers}
    try:
        for module in model.modules():  # the attribute, not train(): a model may override train() to freeze its layers
            module.training = id(module) in training
        yield
    finally:
        flags.restore()


def has_lazy_parameters(model: nn.Module) -> bool:
    """Whether a layer still waits for its first forward pass to get its parameters.

    Example:
        >>> has_lazy_parameters(nn.LazyLinear(2))
        True
    """
    return any(is_lazy(parameter) for parameter in model.parameters())
