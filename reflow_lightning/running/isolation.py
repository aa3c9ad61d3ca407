"""Run a model within a training without leaving a trace in it."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from reflow_lightning.running.generators import RandomState, seed_generator
from reflow_lightning.running.snapshot import TrainingFlags
from reflow_lightning.running.traces import Traces


@contextmanager
def isolated_rng(seed: int | None = None, generators: Sequence[Any] = ()) -> Iterator[None]:
    """Leave the random state of Python, NumPy and PyTorch as it was before the block.

    Args:
        seed: Seed for the block; ``None`` goes on from the present state.
        generators: Generators of a model's own, which are treated alike; see `generators_in`.

    Example:
        >>> state = torch.get_rng_state()
        >>> with isolated_rng(seed=1):
        ...     _ = torch.rand(3)
        >>> torch.equal(state, torch.get_rng_state())
        True
    """
    before = RandomState(generators)
    try:
        if seed is not None:
            random.seed(seed)
            torch.default_generator.manual_seed(seed)
            if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # else it would be seeded after the block
                torch.cuda.manual_seed_all(seed)
            if numpy := sys.modules.get("numpy"):
                numpy.random.seed(seed % 2**32)
            for generator in generators:
                seed_generator(generator, seed)
        yield
    finally:
        before.restore()


@contextmanager
def only_training(
    model: nn.Module, layers: Iterable[nn.Module], *, written: Iterable[nn.Module] = ()
) -> Iterator[None]:
    """Put the given layers in train mode and all others in eval mode, and leave no trace of running the model.

    Afterwards every training flag, buffer and plain attribute is what it was; see `Traces` for how far that goes.
    Within the block `DistributedDataParallel` does not talk to other processes.

    Args:
        model: The model that is run within the block.
        layers: Those of its layers that are in train mode.
        written: Modules whose buffers the block itself writes, which stay as they are then.
    """
    flags, traces = TrainingFlags(model.modules()), Traces(model, but=written)
    training = {id(layer) for layer in layers}
    try:
        for module in model.modules():  # the attribute, not train(): a model may override train() to freeze its layers
            module.training = id(module) in training
            if isinstance(module, DistributedDataParallel):  # processes may run different numbers of batches
                module.require_forward_param_sync = module.require_backward_grad_sync = False
        yield
    finally:
        traces.restore()
        flags.restore()


@contextmanager
def replaced(module: nn.Module, name: str, value: Any) -> Iterator[None]:
    """Have a module show something else under a name within the block, past its own ``__setattr__``."""
    before = {name: vars(module)[name]} if name in vars(module) else {}
    vars(module)[name] = value
    try:
        yield
    finally:
        del vars(module)[name]
        vars(module).update(before)


def recurrent_gradients(model: nn.Module) -> AbstractContextManager[None]:
    """A block in which recurrent layers have gradients in eval mode, which cuDNN does not give."""
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    return torch.backends.cudnn.flags(enabled=False) if recurrent else nullcontext()


def has_lazy_parameters(model: nn.Module) -> bool:
    """Whether a layer still waits for its first forward pass to get its parameters.

    Example:
        >>> has_lazy_parameters(nn.LazyLinear(2))
        True
    """
    return any(is_lazy(parameter) for parameter in model.parameters())
