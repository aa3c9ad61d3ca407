"""Collapse a pruned network: the same function as a smaller, faster, ordinary module."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch
from torch import fx, nn

from reflow_lightning.depth.exactness import Inputs, random_like
from reflow_lightning.depth.merging import fold_batchnorm
from reflow_lightning.depth.tracing import trace
from reflow_lightning.depth.work import Work, drop_identities
from reflow_lightning.running.batches import device_of, move
from reflow_lightning.running.forward import batch_input


@torch.no_grad()
def collapse(
    model: nn.Module,
    example_input: Any,
    *,
    batches: Iterable[Any] | None = None,
    max_batches: int = 10,
    tolerance: float = 1e-4,
) -> fx.GraphModule:
    """Remove from a pruned network what makes no difference to its output.

    Channels that are constant, whatever the input is, and those that nobody reads go, through additions,
    concatenations, depthwise convolutions and flattening; what the constants contribute moves into the next bias.
    Branches that only add a constant go. BatchNorm is folded. Rectifiers that are always on become the identity, and
    layers between which nothing is left are merged where that is cheaper (*Layer Collapse Can be Induced by
    Unstructured Pruning*, arXiv 2404.16890, which counts such layers). Every step is checked on the example, on random
    inputs like it and on the batches; one that changes an output by more than the tolerance is not taken.

    Args:
        model: Any module that `torch.fx` can trace; parts that it can't are left as they are. It is not changed.
        example_input: What the network is called with: a tensor, or a tuple of all positional arguments.
        batches: Real data on which rectifiers are observed too. Without any, one counts as always on, or always off,
            only if that follows from the weights. With them it may hold on these data only: test the result.
        max_batches: At most so many.
        tolerance: Largest allowed difference of an output, relative to the largest of that output.

    Returns:
        A module in eval mode, made of ordinary layers; its parameters take no gradients until you ask for them.
        `collapse_report` tells what was removed, and why other things stayed.

    Raises:
        NotTraceableError: If the model's forward pass can't be traced.
        ValueError: If the tolerance is not positive, or the model does not run on the example.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> with torch.no_grad():
        ...     _ = model[0].weight[:6].zero_()
        >>> smaller = collapse(model, torch.randn(1, 4))
        >>> smaller.get_submodule("0").weight.shape, smaller.get_submodule("2").weight.shape
        (torch.Size([2, 4]), torch.Size([2, 2]))
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance={tolerance!r} must be positive: 1e-4 allows for rounding")
    given: Inputs = example_input if isinstance(example_input, tuple) else (example_input,)
    given = move(given, device_of(model))
    inputs = [given, random_like(given)]
    if batches is not None:
        inputs += [(batch_input(move(batch, device_of(model))),) for batch in islice(batches, max_batches)]
    work = Work(trace(model, len(given)), inputs, tolerance)
    work.attempt("identity", drop_identities)
    work.attempt("batchnorm", lambda analysis: fold_batchnorm(analysis.steps, analysis.values))
    work.simplify("proved by the weights")
    if batches is not None:
        work.simplify(f"on {len(inputs)} batches", observes=True)
    return work.finish()
