"""Checks of what `choose` is asked for, before anything is done."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from reflow_lightning.layers import Inventory, Weight
from reflow_lightning.pruning.criteria.chunks import flat_chunks
from reflow_lightning.pruning.floors import least_kept
from reflow_lightning.pruning.maps import map_sizes
from reflow_lightning.pruning.norms import computed_in
from reflow_lightning.pruning.patterns import Pattern
from reflow_lightning.pruning.select import select
from reflow_lightning.pruning.spec import PruneSpec
from reflow_lightning.pruning.ties import tied_names
from reflow_lightning.running.processes import together
from reflow_lightning.running.sharding import is_sharded, reshard
from reflow_lightning.running.shards import part_of


def check_model(model: nn.Module, sparsity: float, spec: PruneSpec) -> dict[str, Tensor]:
    """Check what `choose` is asked for against a model, without scores and data, and return the selected weights.

    Raises:
        ValueError: Names the argument or the parameter, its value and the remedy.

    Example:
        >>> list(check_model(nn.Linear(2, 2), 0.5, PruneSpec()))
        ['weight']
    """
    spec.check_sparsity(sparsity)
    reshard(model)
    following = tied_names(model, spec.tied or {})
    found = select(model, spec.include, spec.exclude)
    selected = {name: parameter.detach() for name, parameter in found.items() if name not in following}
    known = {} if spec.pattern is None else stored_weights(model, selected)
    parts = {name: part_of(name, weight) for name, weight in selected.items()}
    with in_step(selected, "checking the weights"):
        for name, part in parts.items():
            _check_finite(name, part.values)
            if spec.pattern is not None:
                Pattern.parse(spec.pattern).check(name, part.shape, known[name])
    needed = {name: computed.parts for name, computed in computed_in(model, selected).items()}
    sizes = map_sizes(model, selected, whole=needed)
    least_kept(sum(sizes.values()), sizes, spec.min_kept, kept_in_all(selected, sparsity), needed)
    return selected


def stored_weights(model: nn.Module, names: Iterable[str]) -> dict[str, Weight]:
    """How each parameter is laid out. An unknown parameter is taken to have its inputs along dimension 1."""
    named, known = dict(model.named_parameters(remove_duplicate=False)), Inventory.of(model).stored
    return {name: known.get(id(named[name]), Weight(name)) for name in names}


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
