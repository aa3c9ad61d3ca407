"""The calls of one layer in a forward pass that ends with the last of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from reflow_lightning.calibration.batchnorm import alone
from reflow_lightning.layers.padding import Valid
from reflow_lightning.layers.rows import RowsWatch, are_paired
from reflow_lightning.running.compat.torch import BatchNorm, tree_map_only
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.hooks import Call, in_type, watching
from reflow_lightning.running.snapshot import Snapshot, TrainingFlags


class Arrival(NamedTuple):
    """What a layer got and gave for one batch.

    Attributes:
        own: Its calls in the pruned network. Their output may be missing.
        dense: Its calls in the dense network.
        paired: Whether both got the same rows of the batch.
        valid: What of the batch is no padding.
    """

    own: list[Call]
    dense: list[Call]
    paired: bool
    valid: Valid


def dtype_of(model: nn.Module, name: str) -> torch.dtype:
    """The type of a layer's parameters."""
    return next(iter(model.get_submodule(name).parameters())).dtype


def same_rows(own: list[Call], rows: RowsWatch, dense: list[Call], dense_rows: RowsWatch) -> bool:
    """Whether a layer was given the same rows in both networks."""
    given, in_dense = ([call._replace(output=(call.args, call.kwargs)) for call in calls] for calls in (own, dense))
    return are_paired(given, rows, in_dense, dense_rows)


@contextmanager
def by_batch(layers: Iterable[BatchNorm]) -> Iterator[None]:
    """Have BatchNorm layers normalise by the batch at hand, and forget it."""
    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(alone(layer))
            stack.callback(Snapshot.of_buffers([layer]).restore)
            stack.callback(TrainingFlags([layer]).restore)
            layer.training = True
        yield


class _SeenError(BaseException):
    """Ends a forward pass whose rest is of no interest; no handler of the model may stop it."""


def calls_of(
    model: nn.Module,
    name: str,
    batch: Any,
    forward: Forward,
    times: int,
    watch: AbstractContextManager[Any] = nullcontext(),  # noqa: B008  (without a state)
) -> list[Call]:
    """The calls of one layer in a forward pass, within another context, which ends with the last of them."""
    calls: list[Call] = []
    dtype = dtype_of(model, name)

    def take(_: str, call: Call) -> None:
        call = in_type(call, dtype)
        if len(calls) + 1 == times:
            calls.append(call)
            raise _SeenError
        calls.append(tree_map_only(Tensor, Tensor.clone, call))  # what follows may write into them

    with watching(model, [name], take), suppress(_SeenError), watch:
        forward(model, batch)
    return calls
