"""Several prunings at one moment: what each of them leaves."""

from __future__ import annotations

from dataclasses import replace

from reflow_lightning.pruning.patterns import Pattern
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
    return [(spec, target) for target in targets if reached < target < sparsity] + [(spec, sparsity)]


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
