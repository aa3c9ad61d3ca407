"""Collapse a pruned network: the same function as a smaller, faster, ordinary module."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from numbers import Real
from typing import Any

import torch
from torch import nn

from reflow_lightning.collapse.exactness import Expected, random_like
from reflow_lightning.collapse.graph.running import StepFailedError
from reflow_lightning.collapse.graph.tracing import evaluated
from reflow_lightning.collapse.parts import Parts
from reflow_lightning.collapse.report import CollapseReport, attach
from reflow_lightning.running.arguments import arguments_of, cast, check_example, example_arguments
from reflow_lightning.running.batches import device_of, move
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.inference import outside_inference


@outside_inference()
@torch.no_grad()
def collapse(
    model: nn.Module,
    example_input: Any,
    *,
    batches: Iterable[Any] | None = None,
    max_batches: int = 10,
    forward: Forward | None = None,
    tolerance: float = 1e-4,
) -> nn.Module:
    """Remove from a pruned network what makes no difference to its output.

    Channels that are constant for every input, and channels that nobody reads, go: through additions,
    concatenations, depthwise convolutions and flattening; what the constants contribute moves into the next bias.
    Branches that only add a constant go. BatchNorm is folded. Rectifiers that are always on become the identity, and
    layers between which nothing is left are merged where that is cheaper (*Layer Collapse Can be Induced by
    Unstructured Pruning*, arXiv 2404.16890, which counts such layers). Every step is checked on the example, on random
    inputs like it and on the batches; one that changes an output by more than the tolerance is not taken.

    A network that `torch.fx` can't trace, as it branches on values or is one of Hugging Face's, keeps its class. The
    largest parts of it that can be traced are collapsed in their places, each with what it is called with when the
    network runs, and the report names the rest. So is a part that can't be traced in a network that can. Names of
    modules and parameters stay where layers only lose channels, so that a state dict has the same keys; its shapes are
    others, so save the module itself, or load the state into what another collapse returned.

    A network in half precision is worked on in float32, where steps can be told from rounding, and cast in the end. The
    report then tells the difference of the two networks in half precision, if they run on this device.

    Args:
        model: Any module. It is not changed.
        example_input: What the network is called with: a tensor, a tuple of all positional arguments, or a mapping,
            which is passed by name or taken apart just as `reflow_lightning.calibrate` does with a batch. The network
            that is returned is to be called in the same way; the rest keeps its defaults, and flags (truth values,
            texts) keep the values of the example. The number of samples is free afterwards. The size of images and the
            length of series are not: what is constant, and the borders that padding makes, hold for the example's.
        batches: Real data on which rectifiers are observed too. Without any, one counts as always on, or always off,
            only if that follows from the weights. With them it may hold on these data only: test the result.
        max_batches: At most so many.
        forward: ``(model, batch) -> anything`` for batches that the default does not understand; see
            `reflow_lightning.calibrate`. By default a network of several arguments gets the first of the batch's.
        tolerance: Largest allowed difference of an output, relative to the largest of that output.

    Returns:
        A module in eval mode: a `torch.fx.GraphModule` of ordinary layers, or a module of the model's own class if the
        model can't be traced. Its parameters take no gradients until you ask for them. `collapse_report` tells what was
        removed, and why other things stayed.

    Raises:
        TypeError: If the model is no module.
        ValueError: If the tolerance or the number of batches is not positive, the example is empty or holds NaN or
            ``None``, there is no batch, a batch lacks what the example gives by name, or the model does not run on the
            example or on a batch.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> with torch.no_grad():
        ...     _ = model[0].weight[:6].zero_()
        >>> smaller = collapse(model, torch.randn(1, 4))
        >>> smaller.get_submodule("0").weight.shape, smaller.get_submodule("2").weight.shape
        (torch.Size([2, 4]), torch.Size([2, 2]))
    """
    if not isinstance(tolerance, Real) or not tolerance > 0:
        raise ValueError(f"tolerance={tolerance!r} must be positive: 1e-4 allows for rounding")
    if isinstance(max_batches, bool) or not isinstance(max_batches, int) or max_batches < 1:
        raise ValueError(f"max_batches={max_batches!r} must be a whole number of at least 1")
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module, not a {type(model).__name__}: collapse(model, example_input)"
        )
    original = evaluated(model)
    given = example_arguments(original, example_input, device_of(original))
    check_example(given)
    dtype = _reduced(original)
    original = original if dtype is None else original.float()
    read = [] if batches is None else list(islice(batches, max_batches))
    if batches is not None and not read:
        raise ValueError("batches gave no batch: pass a loader that can be read again, or batches=None")
    calls = [given, *(arguments_of(original, batch, given, forward) for batch in read)]
    inputs = [move(call, device_of(original)) for call in calls]
    inputs = inputs if dtype is None else [cast(call, dtype, torch.float32) for call in inputs]
    try:
        expected = Expected(original, inputs, [random_like(inputs[0])])
    except StepFailedError as error:
        copy = "" if dtype is None else f" as a copy in float32: collapse it before it is cast to {dtype}"
        raise ValueError(
            f"{type(model).__name__} does not run on example_input, or on a batch{copy}: pass what it is called with, "
            f"images without labels, and forward=... for odd batches ({error})"
        ) from error
    parts = Parts(original, expected, tolerance, len(read))
    parts.collapse([""])
    collapsed = parts.network
    report = CollapseReport(tuple(parts.removed), tuple(parts.left), parts.deviation)
    if dtype is not None:
        collapsed.to(dtype)
        with suppress(StepFailedError):  # a device that can't run it in half precision
            expected = Expected(evaluated(model), [cast(call, torch.float32, dtype) for call in inputs])
            report = replace(report, deviation=expected.deviation(collapsed))
    attach(collapsed, report)
    return collapsed


def _reduced(model: nn.Module) -> torch.dtype | None:
    """The type of a model in half precision, in which rounding would hide what a step changes."""
    dtypes = {p.dtype for p in model.parameters()}
    return next(iter(dtypes)) if dtypes in ({torch.float16}, {torch.bfloat16}) else None
