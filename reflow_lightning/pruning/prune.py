"""Prune a model: select, score, allocate, rank, mask."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from reflow_lightning.pruning.allocations.protocols import AnyAllocation
from reflow_lightning.pruning.choose import choose
from reflow_lightning.pruning.criteria.protocols import AnyCriterion
from reflow_lightning.pruning.masks import Masks
from reflow_lightning.pruning.spec import PruneSpec
from reflow_lightning.running.as_forward import AnyForward
from reflow_lightning.running.batches import Limit
from reflow_lightning.running.inference import outside_inference
from reflow_lightning.running.names import Patterns


@outside_inference()
def make_masks(
    model: nn.Module,
    sparsity: float,
    *,
    previous: Mapping[str, Tensor] | None = None,
    batches: Iterable[Any] | None = None,
    max_batches: Limit = 50,
    forward: AnyForward | None = None,
    progress: bool = False,
    **spec: Any,
) -> Masks:
    """Choose the weights that go, and change nothing.

    Args:
        model: Any module.
        sparsity: Fraction of the selected weights that are pruned.
        previous: Masks of an earlier pruning, which stay pruned; see `choose`.
        batches: See `prune`, as for the next three.
        max_batches: At most so many batches.
        forward: Runs the model on a batch.
        progress: Show a bar.
        **spec: Fields of `PruneSpec`: ``criterion``, ``allocation``, ``pattern``, ``min_kept``, ``include``,
            ``exclude``, ``tied``.

    Raises:
        ValueError: As `prune`, and if a keyword is no field of `PruneSpec`.

    Example:
        >>> make_masks(nn.Linear(10, 10), 0.9, criterion="random")
        Masks(1 tensors, 100 weights, 0.9000 pruned)
    """
    return choose(
        model,
        sparsity,
        PruneSpec.from_dict(spec),
        previous=previous,
        batches=batches,
        max_batches=max_batches,
        forward=forward,
        progress=progress,
    ).masks


@outside_inference()
def prune(
    model: nn.Module,
    sparsity: float,
    *,
    criterion: AnyCriterion = "magnitude",
    allocation: AnyAllocation = "global",
    pattern: str | None = None,
    min_kept: float = 0.0,
    include: Patterns = ("*",),
    exclude: Patterns = (),
    tied: Mapping[str, str] | None = None,
    batches: Iterable[Any] | None = None,
    max_batches: Limit = 50,
    forward: AnyForward | None = None,
    progress: bool = True,
) -> Masks:
    """Set a fraction of a model's weights to zero, in place.

    Exactly ``round(sparsity * selected)`` weights are masked; of equal scores the first by position go; the result is
    the same on every run. Weights that are zero already go first. Zeros alone make no model smaller or faster.

    Under `fully_shard` every process prunes its own part of the model; call this on all of them. They exchange counts,
    and no weights.

    Args:
        model: Any module.
        sparsity: Fraction of the selected weights that become zero, in [0, 1).
        criterion: The lowest scores go. ``"magnitude"``, ``"random"``, a callable ``(name, weight) -> scores``, or one
            that needs data: ``"fisher"``, ``"taylor"``, ``"snip"``, ``"wanda"``, ``"woodfisher"`` or a `DataCriterion`,
            such as ``WoodFisher(block=256)``, which also changes the weights that stay.
        allocation: ``"global"`` (one ranking over all layers: Global Magnitude Pruning, arXiv 2209.14624),
            ``"uniform"`` (the same share in each), ``"erk"`` (Erdős-Rényi-Kernel, arXiv 1911.11134), ``"lamp"``
            (layer-adaptive magnitude, arXiv 2010.07611), ``"entropy"`` (from layers whose rectifiers hardly switch,
            arXiv 2404.16890; it needs data), a callable ``(scores, keep, floors) -> number to keep by name``, or a
            `DataAllocation`.
        pattern: ``"N:M"``: of every M weights along the input channels at most N stay; ``sparsity`` may prune more.
        min_kept: Each layer keeps at least this fraction *of all selected weights*, or all of its own.
        include: Glob patterns on parameter names; see `select`.
        exclude: Glob patterns on parameter names.
        tied: Parameters or buffers that get the masks of others: ``{"teacher.*": "student.*"}``, where ``*`` stands for
            the same text on both sides. They count in the masks, and are not ranked.
        batches: What a criterion or an allocation learns from that needs data, drawn and transformed as in training:
            any iterable of batches. Where processes run together, each has its own or none, and the result is as if
            one had read them all.
        max_batches: At most so many batches; ``"auto"`` stands for 200.
        forward: ``(model, batch) -> output`` for batches that the default does not understand; see
            `reflow_lightning.calibrate`.
        progress: Show a bar in a terminal if reading the batches takes more than two seconds.

    Returns:
        The masks, to be kept beside the model; `Masks.coverage` tells how much of all matrices they prune.

    Raises:
        ValueError: If an argument is out of range, a pattern matches nothing, or a weight is NaN or infinite, or the
            criterion or the allocation needs data and gets none, or no gradient, or no input, reaches a weight on
            them. The model then is unchanged.

    Example:
        >>> model = nn.Sequential(nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 2))
        >>> prune(model, sparsity=0.9)
        Masks(2 tensors, 120 weights, 0.9000 pruned)
    """
    spec = PruneSpec(
        criterion=criterion,
        allocation=allocation,
        pattern=pattern,
        min_kept=min_kept,
        include=include,
        exclude=exclude,
        tied=tied,
    )
    choice = choose(
        model,
        sparsity,
        spec,
        batches=batches,
        max_batches=max_batches,
        forward=forward,
        progress=progress,
    )
    choice.apply(model)
    return choice.masks
