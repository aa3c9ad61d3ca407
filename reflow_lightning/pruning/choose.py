"""What pruning decides: which weights go, and how the others make up for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import starmap
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from reflow_lightning.pruning.allocate import allocate
from reflow_lightning.pruning.allocations.protocols import Allocation
from reflow_lightning.pruning.allocations.registry import resolve_allocation
from reflow_lightning.pruning.checks import check_model, in_step, kept_in_all, stored_weights
from reflow_lightning.pruning.compensation import changes_of
from reflow_lightning.pruning.criteria.asked_once import AskedOnce
from reflow_lightning.pruning.criteria.protocols import Compensating, Criterion, StreamedCriterion
from reflow_lightning.pruning.criteria.registry import resolve_criterion
from reflow_lightning.pruning.empties import warn_of_empties
from reflow_lightning.pruning.estimate import Reading, Role, estimated
from reflow_lightning.pruning.floors import least_kept
from reflow_lightning.pruning.maps import Maps, split_maps
from reflow_lightning.pruning.masks import Masks
from reflow_lightning.pruning.norms import computed_in, follow_norms
from reflow_lightning.pruning.patterns import Pattern
from reflow_lightning.pruning.ranking import cut_mask
from reflow_lightning.pruning.scores import Scores
from reflow_lightning.pruning.spec import PruneSpec
from reflow_lightning.pruning.ties import tied_names
from reflow_lightning.running.as_forward import AnyForward
from reflow_lightning.running.batches import Limit
from reflow_lightning.running.declared import says
from reflow_lightning.running.inference import ordinary, outside_inference, writing
from reflow_lightning.running.sharding import is_spread
from reflow_lightning.running.shards import Part, local, part_like, part_of, spread_like, whole_like

_SCORING = Role[Criterion]("criterion", "scoring", "(name, weight) -> scores", "'magnitude' or 'random'")
_ALLOCATION = Role[Allocation](
    "allocation",
    "allocation",
    "(scores, keep, floors) -> number to keep by name",
    "'global', 'uniform' or 'erk'",
)


@dataclass(frozen=True)
class Learned:
    """What scores the weights of a model and shares them out, for any sparsity; see `learn`.

    Attributes:
        criterion: Maps a weight to scores.
        allocation: Shares out what is kept.
        scoring: The criterion, which keeps what it has scored; one that gives its scores in pieces, to save memory, is
            asked again each time.
    """

    criterion: Criterion
    allocation: Allocation
    scoring: Criterion


@dataclass(frozen=True)
class Choice:
    """A pruning that is decided and not done yet.

    Attributes:
        masks: Which weights stay.
        changes: What is added to the weights that stay, by parameter name; empty for most criteria.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> masks = Masks({"weight": torch.tensor([[True, False]])})
        >>> before = layer.weight[0, 0].item()
        >>> Choice(masks, {"weight": torch.tensor([[1.0, 0.0]])}).apply(layer)
        >>> round(layer.weight[0, 0].item() - before, 5), layer.weight[0, 1].item()
        (1.0, 0.0)
    """

    masks: Masks
    changes: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    @outside_inference()
    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        """Change the weights of a model in place and set those to zero that go.

        Raises:
            ValueError: If the masks do not fit the model, which then is unchanged.
        """
        parameters = dict(zip(self.masks, self.masks.parameters(model), strict=True))
        with writing(model):
            for name, change in self.changes.items():
                values = local(parameters[name].detach())
                values.copy_(values.to(change) + local(whole_like(parameters[name], change)))
        self.masks.apply(model)
        with writing(model):
            follow_norms(model, self.masks)


@outside_inference()
@torch.no_grad()
def learn(model: nn.Module, sparsity: float, spec: PruneSpec, reading: Reading) -> Learned:
    """Let criterion and allocation read the batches, once for all choices among the same weights.

    Args:
        model: Any module.
        sparsity: The first that will be chosen, for the checks.
        spec: See `choose`.
        reading: What is read.

    Raises:
        ValueError: As `choose`.

    Example:
        >>> layer, spec = nn.Linear(4, 2), PruneSpec(criterion=lambda name, weight: weight.abs())
        >>> learned = learn(layer, 0.5, spec, Reading())
        >>> [choose(layer, sparsity, spec, learned=learned).masks.sparsity for sparsity in (0.25, 0.5)]
        [0.25, 0.5]
    """
    return _learned(ordinary(model), check_model(model, sparsity, spec), spec, reading)


def _learned(model: nn.Module, selected: Mapping[str, Tensor], spec: PruneSpec, reading: Reading) -> Learned:
    criterion = estimated(resolve_criterion(spec.criterion), _SCORING, model, selected, reading)
    allocation = estimated(resolve_allocation(spec.allocation), _ALLOCATION, model, selected, reading)
    asked_again = isinstance(criterion, StreamedCriterion) or (is_spread(model) and says(criterion, "repeatable"))
    return Learned(criterion, allocation, criterion if asked_again else AskedOnce(criterion))


@outside_inference()
@torch.no_grad()
def choose(
    model: nn.Module,
    sparsity: float,
    spec: PruneSpec,
    *,
    previous: Mapping[str, Tensor] | None = None,
    batches: Iterable[Any] | None = None,
    max_batches: Limit = 50,
    forward: AnyForward | None = None,
    progress: bool = False,
    learned: Learned | None = None,
) -> Choice:
    """Choose the weights that go, and how the others change, and do nothing yet.

    Args:
        model: Any module.
        sparsity: Fraction of the selected weights that are zero then.
        spec: Which weights are selected, and how they are chosen.
        previous: The masks of an earlier pruning of the same selection: what they pruned goes first, so that it stays
            pruned. By default that is every weight that is zero.
        batches: See `prune`, as for the next three.
        max_batches: At most so many batches.
        forward: Runs the model on a batch.
        progress: Show a bar.
        learned: What `learn` gave for the same selection and weights; then no batch is read.

    Raises:
        ValueError: If an argument is out of range, or the criterion or the allocation needs data and gets none.

    Example:
        >>> layer = nn.Linear(4, 2)
        >>> batch = (torch.randn(8, 4), torch.randint(2, (8,)))
        >>> choose(layer, 0.5, PruneSpec(criterion="fisher"), batches=[batch], max_batches=1).masks
        Masks(1 tensors, 8 weights, 0.5000 pruned)
    """
    selected = check_model(model, sparsity, spec)
    model = ordinary(model)  # for criteria that ask for gradients
    reading = Reading(batches=batches, max_batches=max_batches, forward=forward, progress=progress)
    learned = learned or _learned(model, selected, spec, reading)
    with in_step(selected, "choosing the weights"):
        found = _candidates(model, selected, sparsity, spec, learned, previous)
        scores = found.maps.scores
        cuts = allocate(scores, found.keep, learned.allocation, found.least(spec.min_kept))
        warn_of_empties(
            scores,
            cuts,
            sparsity,
            lambda min_kept: found.least(max(min_kept, spec.min_kept)),
            lambda floors: allocate(scores, found.keep, learned.allocation, floors),
        )
        cut_of = dict(zip(scores, cuts, strict=True))
        chosen = found.maps.whole(lambda name: cut_mask(scores[name], cut_of[name]))
        masks = Masks(starmap(lambda name, mask: (name, spread_like(selected[name], mask)), chosen))  # one at a time
        changes = changes_of(learned.criterion, masks) if isinstance(learned.criterion, Compensating) else {}
        followers = {n: source for n, source in tied_names(model, spec.tied or {}).items() if source in masks}
        joined = masks.joined((n, masks[source]) for n, source in followers.items()) if followers else masks
        return Choice(joined, changes)


@outside_inference()
@torch.no_grad()
def shares(
    model: nn.Module, sparsity: float, spec: PruneSpec, learned: Learned, previous: Mapping[str, Tensor] | None = None
) -> dict[str, int]:
    """How many weights each map would keep, by the names that an allocation sees; `choose` decides which ones.

    Example:
        >>> model, spec = nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 2)), PruneSpec(allocation="uniform")
        >>> shares(model, 0.5, spec, learn(model, 0.5, spec, Reading()))
        {'0.weight': 1, '1.weight': 1}
    """
    selected = check_model(model, sparsity, spec)
    with in_step(selected, "sharing out the weights"):
        found = _candidates(ordinary(model), selected, sparsity, spec, learned, previous)
        cuts = allocate(found.maps.scores, found.keep, learned.allocation, found.least(spec.min_kept))
        return {name: cut.kept for name, cut in zip(found.maps.scores, cuts, strict=True)}


class _Candidates(NamedTuple):
    """The weights that may stay: their scores, how many stay in all, and how many in each at a given ``min_kept``."""

    maps: Maps
    keep: int
    least: Callable[[float], dict[str, int]]


def _candidates(
    model: nn.Module,
    selected: Mapping[str, Tensor],
    sparsity: float,
    spec: PruneSpec,
    learned: Learned,
    previous: Mapping[str, Tensor] | None,
) -> _Candidates:
    keep = kept_in_all(selected, sparsity)
    computed = computed_in(model, selected)
    values = dict(selected) | {name: found.value() for name, found in computed.items()}
    parts = {name: part_of(name, weight) for name, weight in values.items()}
    scores = {n: Scores(n, p.values, learned.scoring, _pruned_before(n, p, previous), part=p) for n, p in parts.items()}
    if spec.pattern is not None:
        parsed = Pattern.parse(spec.pattern)
        known = stored_weights(model, scores)
        scores = {name: s.without(parsed.outside(s, known[name].inputs)) for name, s in scores.items()}
    maps = split_maps(model, scores | {n: scores[n].with_needed(found.needed) for n, found in computed.items()})
    total, most = sum(w.numel() for w in selected.values()), {name: s.most for name, s in maps.scores.items()}
    needed = {name: found.parts for name, found in computed.items()}
    return _Candidates(maps, keep, lambda min_kept: least_kept(total, most, min_kept, keep, needed))


def _pruned_before(name: str, part: Part, previous: Mapping[str, Tensor] | None) -> Callable[[], Tensor] | None:
    if previous is None:
        return None
    if name not in previous:
        raise ValueError(f"previous holds no mask for '{name}': pass masks of the same selection")
    return lambda: ~part_like(part, previous[name])
