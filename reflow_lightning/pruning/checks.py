"""Checks of what `prune` is asked for, before anything is done."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from numbers import Real

import torch
from torch import Tensor, nn

from reflow_lightning.layers import input_dims
from reflow_lightning.pruning.allocation import Allocation, DataAllocation, least_kept, resolve_allocation
from reflow_lightning.pruning.criteria.protocols import Criterion, DataCriterion, flat_chunks
from reflow_lightning.pruning.criteria.resolve import resolve_criterion
from reflow_lightning.pruning.patterns import Pattern
from reflow_lightning.pruning.select import select
from reflow_lightning.pruning.shards import is_sharded, part_of
from reflow_lightning.running.names import Patterns
from reflow_lightning.running.processes import together
from reflow_lightning.running.sharding import reshard


def check_arguments(
    sparsity: float,
    criterion: str | Criterion | DataCriterion,
    allocation: str | Allocation | DataAllocation,
    pattern: str | None,
    min_kept: float,
) -> None:
    """Check what can be checked without a model.

    Raises:
        ValueError: Names the argument, its value and the remedy.
    """
    if isinstance(sparsity, bool) or not isinstance(sparsity, Real) or not 0 <= sparsity < 1:
        raise ValueError(f"sparsity={sparsity!r} is outside [0, 1): 0.9 prunes 90 % of the selected weights")
    if isinstance(min_kept, bool) or not isinstance(min_kept, Real) or not 0 <= min_kept < 1:
        raise ValueError(f"min_kept={min_kept!r} is outside [0, 1): 0.002 keeps 0.2 % of all weights in each layer")
    resolve_criterion(criterion)
    resolve_allocation(allocation)
    if pattern is not None and round(sparsity - Pattern.parse(pattern).sparsity, 9) < 0:
        raise ValueError(
            f"sparsity={sparsity} is below the {Pattern.parse(pattern).sparsity:g} that pattern='{pattern}' prunes: "
            "raise the sparsity or drop the pattern"
        )


def check_model(
    model: nn.Module,
    sparsity: float,
    *,
    criterion: str | Criterion | DataCriterion = "magnitude",
    allocation: str | Allocation | DataAllocation = "global",
    pattern: str | None = None,
    min_kept: float = 0.0,
    include: Patterns = ("*",),
    exclude: Patterns = (),
) -> dict[str, Tensor]:
    """Check the arguments of `prune` against a model, without scores and data, and return the selected weights.

    Raises:
        ValueError: Names the argument or the parameter, its value and the remedy.
    """
    check_arguments(sparsity, criterion, allocation, pattern, min_kept)
    reshard(model)
    selected = {name: p.detach() for name, p in select(model, include, exclude).items()}
    dims = pattern_dims(model, selected)
    parts = {name: part_of(name, weight) for name, weight in selected.items()}
    with in_step(selected, "checking the weights"):
        for name, part in parts.items():
            _check_finite(name, part.values)
            if pattern is not None:
                Pattern.parse(pattern).check(name, part.shape, dims[name])
    sizes = {name: weight.numel() for name, weight in selected.items()}
    least_kept(sum(sizes.values()), sizes, min_kept, kept_in_all(selected, sparsity))
    return selected


def pattern_dims(model: nn.Module, names: Iterable[str]) -> dict[str, int]:
    """The dimension of each parameter along which an N:M pattern counts: its input channels, 1 where none is known."""
    named, dims = dict(model.named_parameters(remove_duplicate=False)), input_dims(model)
    return {name: dims.get(id(named[name]), 1) for name in names}


def kept_in_all(selected: Mapping[str, Tensor], sparsity: float) -> int:
    """Number of weights that stay: all but ``round(sparsity * selected)``."""
    total = sum(weight.numel() for weight in selected.values())
    return total - round(sparsity * total)


def in_step(weights: Mapping[str, Tensor], task: str) -> AbstractContextManager[None]:
    """`together`, if weights are spread over processes, which then must call this all."""
    return together(task) if any(map(is_sharded, weights.values())) else nullcontext()


def _check_finite(name: str, weight: Tensor) -> None:
    for piece in flat_chunks(weight):
        if piece.numel() and not all(math.isfinite(float(bound)) for bound in torch.aminmax(piece)):
            raise ValueError(f"parameter '{name}' holds NaN or infinite values: repair or exclude it before pruning")
