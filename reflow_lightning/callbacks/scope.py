"""What of a LightningModule is pruned: the networks that are trained, and the copies that follow them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_info  # type: ignore[attr-defined]
from torch import nn

from reflow_lightning.callbacks.following import candidates_in, tie
from reflow_lightning.layers import Inventory
from reflow_lightning.pruning import Masks
from reflow_lightning.pruning.spec import PruneSpec
from reflow_lightning.pruning.ties import tied_names
from reflow_lightning.running.copies import is_matrix, untrained_modules
from reflow_lightning.running.names import as_patterns, few, matches, matches_any
from reflow_lightning.running.processes import gather, warn


def held_by_optimizers(trainer: pl.Trainer) -> list[nn.Parameter]:
    """The parameters of the trainer's optimizers, frozen ones too."""
    return [p for optimizer in trainer.optimizers for group in optimizer.param_groups for p in group["params"]]


def trained_by(trainer: pl.Trainer, module: nn.Module) -> set[int]:
    """The ids of the module's parameters that are trained: those in the trainer's optimizers, or if none is, all."""
    own = {id(p) for p in module.parameters() if p.requires_grad}
    return own.intersection(map(id, held_by_optimizers(trainer))) or own


def left_out(
    model: nn.Module, in_optimizers: Collection[int], spec: PruneSpec, masks: Masks | None = None
) -> dict[str, str]:
    """The outermost modules that are not trained, and why they are not pruned, by name.

    Left out is what is frozen and in no optimizer, and what belongs to a metric. Nothing is left out that masks
    prune already, or that a pattern of ``include`` other than ``"*"`` names; and nothing if nothing would be left.

    Args:
        model: Any module.
        in_optimizers: The ids of the parameters that optimizers hold.
        spec: What the user asked for.
        masks: The masks so far.

    Example:
        >>> model = nn.ModuleDict({"net": nn.Linear(2, 2), "vgg": nn.Linear(2, 2).requires_grad_(False)})
        >>> left_out(model, in_optimizers=set(map(id, model.net.parameters())), spec=PruneSpec())
        {'vgg': 'frozen'}
    """
    metrics = {
        name: "a metric"
        for name, module in model.named_modules()
        if name and _is_metric(module) and any(map(is_matrix, module.parameters()))
    }
    frozen = {
        name: "frozen"
        for name, module in untrained_modules(model, in_optimizers)
        if not any(parameter.requires_grad for parameter in module.parameters())
    }
    found: dict[str, str] = {}
    for name, why in sorted((frozen | metrics).items(), key=lambda item: item[0].count(".")):
        if not any(name.startswith(f"{outer}.") for outer in found):
            found[name] = why
    out = {name: why for name, why in found.items() if not _is_named(name, model, spec, masks or ())}
    excluded = [f"{name}.*" for name in out]
    return out if any(not matches_any(name, excluded) for name in _selected(model, spec)) else {}


class Scope:
    """Decides which parameters of a LightningModule are pruned, and sees which of its networks follow others.

    Args:
        trainer: The trainer, whose optimizers are set up.
        module: The module, as its training begins.

    Attributes:
        candidates: Networks that may follow others, and have not been seen to.
        untouched: Modules that `of` has left out, by name, without `candidates`: no repair may change them.
    """

    def __init__(self, trainer: pl.Trainer, module: nn.Module) -> None:
        self.candidates = candidates_in(module, trained_by(trainer, module))
        self._tied: dict[str, str] = {}
        self._told: set[str] = set()
        self.untouched: list[str] = []

    def of(self, trainer: pl.Trainer, module: nn.Module, spec: PruneSpec, masks: Masks | None) -> PruneSpec:
        """A spec that leaves out what is not trained, and ties the copies that follow; what is left out is named once.

        Where processes run together, call it on all of them.

        Args:
            trainer: The trainer.
            module: The module.
            spec: What the user asked for.
            masks: Masks of before. What they prune of a copy shows that it follows.
        """
        self._tie(trainer, module, spec, masks)
        out = left_out(module, set(map(id, held_by_optimizers(trainer))), spec, masks)
        tied = self._tied | dict(spec.tied or {})
        followers = self._tied.keys() | tied_names(module, spec.tied or {}).keys()
        self.untouched = [name for name in out if not any(t.startswith(f"{name}.") for t in followers)]
        selected = list(_selected(module, spec))
        told = {n: out[n] for n in self.untouched if n not in self._told and matches(selected, f"{n}.*")}
        if told:
            self._told |= told.keys()
            listed = few(f"'{name}' ({why})" for name, why in told.items())
            warn(f"left dense, since it is not trained: {listed}; name it in include to prune it, or in exclude")
        return replace(spec, exclude=(*spec.exclude, *(f"{name}.*" for name in out)), tied=tied or None)

    def reached(self, trainer: pl.Trainer, module: nn.Module, spec: PruneSpec, masks: Masks | None) -> float:
        """The sparsity of what is trained: masks of networks that follow do not count, or a schedule would go too far.

        Where processes run together, call it on all of them.
        """
        self._tie(trainer, module, spec, masks)
        followers = self._tied.keys() | tied_names(module, spec.tied or {}).keys()
        return Masks({name: mask for name, mask in (masks or {}).items() if name not in followers}).sparsity

    def look(self) -> None:
        """Take the candidates as they are now: what a repair has written into them is no following."""
        for candidate in self.candidates:
            candidate.look()

    def extended(self, trainer: pl.Trainer, module: nn.Module, spec: PruneSpec, masks: Masks) -> Masks:
        """The masks, and masks for networks that were seen to follow their sources since.

        Where processes run together, call it on all of them.
        """
        found = self._tie(trainer, module, spec, None)
        new = {name: source for name, source in found.items() if source in masks}  # also in place of its own
        return masks.joined((name, masks[source]) for name, source in new.items()) if new else masks

    def _tie(self, trainer: pl.Trainer, module: nn.Module, spec: PruneSpec, masks: Masks | None) -> dict[str, str]:
        """Tie what follows, on all processes alike though an average may be kept on one alone."""
        if not self.candidates:
            return {}
        trained = {id(p) for p in held_by_optimizers(trainer) if p.requires_grad}  # frozen ones are never stepped
        self.candidates = [c for c in self.candidates if not c.is_in(trained)]
        here = [c.names[0] for c in self.candidates if c.follows() or c.is_masked(masks)]
        following = {name for names in gather(here) for name in names}
        found: dict[str, str] = {}
        for candidate in [c for c in self.candidates if c.names[0] in following]:
            self.candidates.remove(candidate)
            if names := tie(module, candidate, as_patterns(spec.exclude)):
                follower, source = next(iter(names.items()))
                rank_zero_info(
                    f"Reflow: '{follower}' and {len(names) - 1} more tensors follow '{source}' and its like, and get "
                    "their masks; name them in exclude to prevent that"
                )
                found |= names
        self._tied |= found
        return found


def _selected(model: nn.Module, spec: PruneSpec) -> Iterator[str]:
    """The parameters that would be pruned, were nothing left out but what the user excludes."""
    prunable, named = Inventory.of(model).prunable, [pattern for pattern in as_patterns(spec.include) if pattern != "*"]
    for name, parameter in model.named_parameters():
        wanted = (id(parameter) in prunable and "*" in as_patterns(spec.include)) or matches_any(name, named)
        has_values = nn.parameter.is_lazy(parameter) or parameter.numel() > 0
        if wanted and has_values and not matches_any(name, as_patterns(spec.exclude)):
            yield name


def _is_named(name: str, model: nn.Module, spec: PruneSpec, masked: Collection[str]) -> bool:
    parameters = [f"{name}.{within}" for within, _ in model.get_submodule(name).named_parameters()]
    included = any(matches(parameters, pattern) for pattern in spec.include if pattern != "*")
    return included or not set(parameters).isdisjoint(masked)


def _is_metric(module: nn.Module) -> bool:
    """Whether it is a metric of torchmetrics, which is not imported for that."""
    return any(
        kind.__name__ == "Metric" and kind.__module__.startswith("torchmetrics") for kind in type(module).__mro__
    )
