"""Prune a model: select, score, allocate, rank, mask."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from reflow_lightning.names import Patterns
from reflow_lightning.pruning.allocation import Allocation, allocate, least_kept, resolve_allocation
from reflow_lightning.pruning.criteria import Criterion, flat_chunks, resolve_criterion
from reflow_lightning.pruning.masks import Masks
from reflow_lightning.pruning.patterns import Pattern
from reflow_lightning.pruning.ranking import cut_mask
from reflow_lightning.pruning.scores import Scores
from reflow_lightning.pruning.select import select
from reflow_lightning.pruning.shards import Part, is_sharded, part_like, part_of, spread_like
from reflow_lightning.running.processes import together, warn
from reflow_lightning.running.sharding import reshard


def check_arguments(
    sparsity: float, criterion: str | Criterion, allocation: str | Allocation, pattern: str | None, min_kept: float
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
    criterion: str | Criterion = "magnitude",
    allocation: str | Allocation = "global",
    pattern: str | None = None,
    min_kept: float = 0.0,
    include: Patterns = ("*",),
    exclude: Patterns = (),
) -> dict[str, Tensor]:
    """Check all arguments of `prune` against a model, without scoring it, and return the selected weights.

    Raises:
        ValueError: Names the argument or the parameter, its value and the remedy.
    """
    check_arguments(sparsity, criterion, allocation, pattern, min_kept)
    reshard(model)
    selected = {name: p.detach() for name, p in select(model, include, exclude).items()}
    parts = {name: part_of(name, weight) for name, weight in selected.items()}
    with _in_step(selected, "checking the weights"):
        for name, part in parts.items():
            _check_finite(name, part.values)
            if pattern is not None:
                Pattern.parse(pattern).check(name, part.shape)
    sizes = {name: weight.numel() for name, weight in selected.items()}
    least_kept(sum(sizes.values()), sizes, min_kept, kept_in_all(selected, sparsity))
    return selected


def kept_in_all(selected: Mapping[str, Tensor], sparsity: float) -> int:
    """Number of weights that stay: all but ``round(sparsity * selected)``."""
    total = sum(weight.numel() for weight in selected.values())
    return total - round(sparsity * total)


@torch.no_grad()
def make_masks(
    model: nn.Module,
    sparsity: float,
    *,
    criterion: str | Criterion = "magnitude",
    allocation: str | Allocation = "global",
    pattern: str | None = None,
    min_kept: float = 0.0,
    include: Patterns = ("*",),
    exclude: Patterns = (),
    previous: Mapping[str, Tensor] | None = None,
) -> Masks:
    """Choose the weights that go, and change nothing. Takes the arguments of `prune` and ``previous``.

    ``previous`` holds the masks of an earlier pruning of the same selection: what they pruned goes first, so that it
    stays pruned. By default that is every weight that is zero.
    """
    how: dict[str, Any] = {"criterion": criterion, "allocation": allocation, "pattern": pattern, "min_kept": min_kept}
    selected = check_model(model, sparsity, **how, include=include, exclude=exclude)
    with _in_step(selected, "choosing the weights"):
        keep = kept_in_all(selected, sparsity)
        score = resolve_criterion(criterion)
        parts = {name: part_of(name, weight) for name, weight in selected.items()}
        scores = {n: Scores(n, p.values, score, _pruned(n, p, previous), part=p) for n, p in parts.items()}
        if pattern is not None:
            parsed = Pattern.parse(pattern)
            scores = {name: s.without(parsed.outside(s)) for name, s in scores.items()}
        total = sum(weight.numel() for weight in selected.values())
        floors = least_kept(total, {name: s.most for name, s in scores.items()}, min_kept, keep)
        cuts = allocate(scores, keep, allocation, floors)
        empty = [name for (name, s), cut in zip(scores.items(), cuts, strict=True) if s.size and not cut.kept]
        if empty:
            warn(
                f"sparsity={sparsity} leaves no weight in {', '.join(empty)}: no signal passes there; "
                f"min_kept={max(0.002, math.ceil(1e6 / total) / 1e6):g} would keep some in each layer",
                stacklevel=3,
            )
        masks = {name: cut_mask(s, cut) for (name, s), cut in zip(scores.items(), cuts, strict=True)}
        return Masks({name: spread_like(selected[name], mask) for name, mask in masks.items()})


def _in_step(weights: Mapping[str, Tensor], task: str) -> AbstractContextManager[None]:
    """`together`, if weights are spread over processes, which then must call this all."""
    return together(task) if any(map(is_sharded, weights.values())) else nullcontext()


def prune(
    model: nn.Module,
    sparsity: float,
    *,
    criterion: str | Criterion = "magnitude",
    allocation: str | Allocation = "global",
    pattern: str | None = None,
    min_kept: float = 0.0,
    include: Patterns = ("*",),
    exclude: Patterns = (),
) -> Masks:
    """Set a fraction of a model's weights to zero, in place.

    Exactly ``round(sparsity * selected)`` weights are masked; of equal scores the first by position go; the result is
    the same on every run. Weights that are zero already go first. Zeros alone make no model smaller or faster.

    Of a model under `fully_shard` every process prunes its own part; call it on all of them. What they exchange is
    counts, not weights.

    Args:
        model: Any module.
        sparsity: Fraction of the selected weights that become zero, in [0, 1).
        criterion: ``"magnitude"``, ``"random"`` or a callable ``(name, weight) -> scores``; the lowest scores go.
        allocation: ``"global"`` (one ranking over all layers: Global Magnitude Pruning, arXiv 2209.14624),
            ``"uniform"`` (the same share in each), ``"erk"`` (Erdős-Rényi-Kernel, arXiv 1911.11134), ``"lamp"``
            (layer-adaptive magnitude, arXiv 2010.07611), or a callable ``(scores, keep, floors) -> number to keep by
            name``.
        pattern: ``"N:M"``: of every M weights along the input channels at most N stay; ``sparsity`` may prune more.
        min_kept: Each layer keeps at least this fraction *of all selected weights*, or all of its own.
        include: Glob patterns on parameter names; see `select`.
        exclude: Glob patterns on parameter names.

    Returns:
        The masks, to be kept beside the model.

    Raises:
        ValueError: If an argument is out of range, a pattern matches nothing, or a weight is NaN or infinite. The model
            then is unchanged.

    Example:
        >>> model = nn.Sequential(nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 2))
        >>> prune(model, sparsity=0.9)
        Masks(2 tensors, 120 weights, 0.9000 pruned)
    """
    masks = make_masks(
        model,
        sparsity,
        criterion=criterion,
        allocation=allocation,
        pattern=pattern,
        min_kept=min_kept,
        include=include,
        exclude=exclude,
    )
    masks.apply(model)
    return masks


def _check_finite(name: str, weight: Tensor) -> None:
    for piece in flat_chunks(weight):
        if piece.numel() and not all(math.isfinite(float(bound)) for bound in torch.aminmax(piece)):
            raise ValueError(f"parameter '{name}' holds NaN or infinite values: repair or exclude it before pruning")


def _pruned(name: str, part: Part, previous: Mapping[str, Tensor] | None) -> Tensor | None:
    if previous is None:
        return None
    if name not in previous:
        raise ValueError(f"previous holds no mask for '{name}': pass masks of the same selection")
    return ~part_like(part, previous[name])
