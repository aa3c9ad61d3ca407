"""Several prunings at one moment: what each of them leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from reflow_lightning.pruning.allocations.protocols import Allocation
from reflow_lightning.pruning.choose import Learned, shares
from reflow_lightning.pruning.patterns import Pattern
from reflow_lightning.pruning.ranking import Cut
from reflow_lightning.pruning.scores import Scores
from reflow_lightning.pruning.spec import PruneSpec


def check_steps(steps: int) -> None:
    """Check a number of prunings.

    Raises:
        ValueError: If it is no whole number of at least 1.

    Example:
        >>> check_steps(0)
        Traceback (most recent call last):
        ValueError: steps=0 must be a whole number of at least 1: 8 prunes in eight steps and repairs after each
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(
            f"steps={steps!r} must be a whole number of at least 1: 8 prunes in eight steps and repairs after each"
        )


def stepwise(spec: PruneSpec, sparsity: float, steps: int, reached: float = 0.0) -> list[tuple[PruneSpec, float]]:
    """The prunings that lead to a sparsity at one moment: in each, the same share of what is left goes.

    A pattern is reached over patterns of the same M that keep more, so that there are at most M - N of its steps.

    Args:
        spec: How the weights are chosen.
        sparsity: What the last pruning reaches, exactly.
        steps: How many prunings there are.
        reached: The sparsity before.

    Returns:
        How each pruning chooses, and what it reaches. Prunings that would reach no more than the one before are left
        out.

    Example:
        >>> [round(target, 3) for _, target in stepwise(PruneSpec(), 0.9, steps=4)]
        [0.438, 0.684, 0.822, 0.9]
        >>> [(step.pattern, target) for step, target in stepwise(PruneSpec(pattern="2:4"), 0.5, steps=2)]
        [('3:4', 0.25), ('2:4', 0.5)]
    """
    if spec.pattern is not None:
        return _over_patterns(spec, Pattern.parse(spec.pattern), sparsity, steps, reached)
    left = (1 - sparsity) / (1 - reached) if reached < 1 else 1.0
    targets = [1 - (1 - reached) * left ** (step / steps) for step in range(1, steps)]
    return [(spec, target) for target in dict.fromkeys(targets) if reached < target < sparsity] + [(spec, sparsity)]


@dataclass(frozen=True)
class Shares:
    """An allocation whose numbers are known: so many weights stay of each map.

    Args:
        kept: The numbers, by the names that an allocation sees: of parameters, or of the maps that one holds.
        otherwise: Shares out where floors ask for more than that, as the remedies of a warning do.
    """

    kept: Mapping[str, int]
    otherwise: Allocation = field(repr=False, compare=False)

    def __call__(
        self, scores: Mapping[str, Scores], keep: int, floors: Mapping[str, int]
    ) -> Mapping[str, int] | Mapping[str, Cut]:
        """The numbers of those that are asked for."""
        if any(self.kept[name] < floors[name] for name in scores):
            return self.otherwise(scores, keep, floors)
        return {name: self.kept[name] for name in scores}


def shared_out(
    model: nn.Module,
    prunings: Sequence[tuple[PruneSpec, float]],
    learned: Learned,
    previous: Mapping[str, Tensor] | None = None,
) -> list[tuple[PruneSpec, float]]:
    """The prunings of `stepwise`, with layers sharing what each leaves as the network shares it before the first.

    A repair may enlarge all weights of a layer, and a norm behind the layer then takes the scale off again. If the
    layers were ranked against each other after such a repair, some would lose weights that they need.

    Args:
        model: The network before the first pruning.
        prunings: What `stepwise` gave.
        learned: What criterion and allocation found on that network.
        previous: See `choose`.

    Example:
        >>> from reflow_lightning.pruning.choose import learn
        >>> from reflow_lightning.pruning.estimate import Reading
        >>> model, spec = nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 2)), PruneSpec(allocation="uniform")
        >>> prunings = shared_out(model, stepwise(spec, 0.5, steps=2), learn(model, 0.5, spec, Reading()))
        >>> prunings[-1][0].allocation
        Shares(kept={'0.weight': 1, '1.weight': 1})
    """
    if len(prunings) == 1:
        return list(prunings)
    kept = [shares(model, target, spec, learned, previous) for spec, target in prunings]
    return [
        (replace(spec, allocation=Shares(own, learned.allocation)), target)
        for (spec, target), own in zip(prunings, kept, strict=True)
    ]


def _over_patterns(
    spec: PruneSpec, pattern: Pattern, sparsity: float, steps: int, reached: float
) -> list[tuple[PruneSpec, float]]:
    beyond = (1 - sparsity) / (1 - pattern.sparsity)  # of what the pattern leaves
    kept = {round(pattern.m * (pattern.n / pattern.m) ** (step / steps)): step for step in range(1, steps + 1)}
    found = [
        (Pattern(n, pattern.m), n / pattern.m * beyond ** (step / steps))
        for n, step in kept.items()
        if pattern.n < n < pattern.m
    ]
    before = [(replace(spec, pattern=f"{p.n}:{p.m}"), 1 - share) for p, share in found if 1 - share > reached]
    return [*before, (spec, sparsity)]
