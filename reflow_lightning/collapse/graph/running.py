"""The steps and graphs of a user are run here: what they raise is theirs, and all else that is raised is ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import fx, nn

from reflow_lightning.running.arguments import Arguments
from reflow_lightning.running.compat.torch import own_buffers
from reflow_lightning.running.describing import summary
from reflow_lightning.running.errors import ReflowError
from reflow_lightning.running.isolation import isolated_rng
from reflow_lightning.running.own import own

T = TypeVar("T")


class StepFailedError(ReflowError, RuntimeError):
    """A step of a network, or the whole of it, does not run on what it was given."""


def attempted(run: Callable[..., T], *args: object, **kwargs: object) -> T:
    """Run a user's step, or torch's, on what it may not be made for: infinite values, other types, fewer samples.

    Nothing else belongs into it, so that an error of our own is never taken for one of the step.

    Raises:
        StepFailedError: Whatever the step raises is its cause.

    Example:
        >>> attempted(torch.flatten, torch.ones(2, 2)).shape
        torch.Size([4])
        >>> attempted(lambda: [][0])
        Traceback (most recent call last):
        reflow_lightning.collapse.graph.running.StepFailedError: IndexError: list index out of range
    """
    try:
        return run(*args, **kwargs)
    except Exception as error:
        raise StepFailedError(summary(error)) from error


def in_order(traced: fx.GraphModule, arguments: Arguments) -> tuple[Any, ...]:
    """Copies of the arguments of a graph, in the order of its inputs, as an interpreter takes them.

    Example:
        >>> in_order(fx.symbolic_trace(nn.Bilinear(1, 1, 1)), {"input2": 2, "input1": 1})
        (1, 2)
    """
    copied = own(arguments)
    if not isinstance(copied, dict):
        return tuple(copied)
    return tuple(copied[str(node.target)] for node in traced.graph.nodes if node.op == "placeholder")


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Leave the buffers of a model and the random state as they were before the block.

    Example:
        >>> norm = nn.BatchNorm1d(2)
        >>> with undisturbed(norm):
        ...     _ = norm(torch.randn(4, 2))
        >>> norm.running_mean.tolist()
        [0.0, 0.0]
    """
    buffers = [(m, name, b, b.clone()) for m in model.modules() for name, b in own_buffers(m).items() if b is not None]
    try:
        with isolated_rng():
            yield
    finally:
        with torch.no_grad():
            for module, name, buffer, values in buffers:
                own_buffers(module)[name] = buffer.copy_(values)
