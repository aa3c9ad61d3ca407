"""How weights are chosen, as one value: what stands in seven signatures otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

from reflow_lightning.pruning.allocations.protocols import AnyAllocation
from reflow_lightning.pruning.allocations.registry import resolve_allocation
from reflow_lightning.pruning.criteria.protocols import AnyCriterion
from reflow_lightning.pruning.criteria.registry import resolve_criterion
from reflow_lightning.pruning.patterns import Pattern
from reflow_lightning.running.names import Patterns, as_patterns, nearest


@dataclass(frozen=True, kw_only=True)
class PruneSpec:
    """Which weights of a model go, but not how many. See `reflow_lightning.prune` for what each field means.

    Attributes:
        criterion: The lowest scores go.
        allocation: How the weights that stay are shared out over layers.
        pattern: ``"N:M"`` or ``None``.
        min_kept: Least share of all selected weights that each layer keeps.
        include: Glob patterns on parameter names; one pattern or several.
        exclude: Glob patterns on parameter names; they take precedence.
        tied: Parameters or buffers that get the masks of others, such as ``{"teacher.*": "student.*"}``; see
            `reflow_lightning.pruning.ties.tied_names`; ``None``: nothing is tied.

    Raises:
        ValueError: Names the field, its value and the remedy.

    Example:
        >>> PruneSpec(criterion="random", include="layer1.*").include
        ('layer1.*',)
    """

    criterion: AnyCriterion = "magnitude"
    allocation: AnyAllocation = "global"
    pattern: str | None = None
    min_kept: float = 0.0
    include: Patterns = ("*",)
    exclude: Patterns = ()
    tied: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        for name in ("include", "exclude"):
            object.__setattr__(self, name, _patterns(name, getattr(self, name)))
        tied = self.tied or {}
        if not isinstance(tied, Mapping) or not all(isinstance(name, str) for pair in tied.items() for name in pair):
            raise ValueError(f"tied={self.tied!r} must be names by names, such as {{'teacher.*': 'student.*'}}")
        if isinstance(self.min_kept, bool) or not isinstance(self.min_kept, Real) or not 0 <= self.min_kept < 1:
            raise ValueError(
                f"min_kept={self.min_kept!r} is outside [0, 1): 0.002 keeps 0.2 % of all weights in each layer"
            )
        resolve_criterion(self.criterion)
        resolve_allocation(self.allocation)
        if self.pattern is not None:
            Pattern.parse(self.pattern)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PruneSpec:
        """A spec from plain values, as YAML has them.

        Raises:
            ValueError: If a key is no field, or a value is out of range.

        Example:
            >>> PruneSpec.from_dict({"criterion": "random"}).criterion
            'random'
        """
        known = [known.name for known in fields(cls)]
        for key in values:
            if key not in known:
                raise ValueError(f"PruneSpec has no '{key}': use some of {known}{nearest(str(key), known)}")
        return cls(**values)

    @property
    def rules_zeros(self) -> bool:
        """Whether the places of the zeros are fixed, by a pattern or by the masks of another tensor."""
        return self.pattern is not None or bool(self.tied)

    def check_sparsity(self, sparsity: float) -> None:
        """Check a sparsity that weights are to be pruned to by this spec.

        Raises:
            ValueError: If it is outside [0, 1), or less than what the pattern prunes.
        """
        if isinstance(sparsity, str):
            raise ValueError(f"sparsity={sparsity!r} is a text: write a number, such as 0.9")
        if isinstance(sparsity, bool) or not isinstance(sparsity, Real) or not 0 <= sparsity < 1:
            raise ValueError(f"sparsity={sparsity!r} is outside [0, 1): 0.9 prunes 90 % of the selected weights")
        if self.pattern is not None and round(sparsity - Pattern.parse(self.pattern).sparsity, 9) < 0:
            raise ValueError(
                f"sparsity={sparsity} is below the {Pattern.parse(self.pattern).sparsity:g} that "
                f"pattern='{self.pattern}' prunes: raise the sparsity or drop the pattern"
            )


def _patterns(name: str, given: Patterns) -> tuple[str, ...]:
    patterns = as_patterns(given) if isinstance(given, Iterable) else (None,)
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise ValueError(f"{name}={given!r} must be a glob pattern, or several, on parameter names: such as 'layer1.*'")
    return patterns
