"""So many whole columns of every matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from reflow_lightning.layers.fused import parameter_of
from reflow_lightning.pruning.scores import Scores
from reflow_lightning.running.names import matches


@dataclass(frozen=True)
class KeptColumns:
    """An allocation that says how many whole columns each matrix keeps.

    Attributes:
        columns: Number of columns by glob pattern on parameter names.

    Example:
        >>> KeptColumns({"*.weight_ih": 9, "*.weight_hh": 8})
        KeptColumns(columns={'*.weight_ih': 9, '*.weight_hh': 8})
    """

    columns: Mapping[str, int] = field(hash=False)

    def __call__(self, scores: Mapping[str, Scores], keep: int, floors: Mapping[str, int]) -> dict[str, int]:
        """Share out the weights.

        Raises:
            ValueError: If a matrix matches no pattern or has fewer columns, or the sparsity is another one.
        """
        counts = {name: self._kept(name, s.weight) for name, s in scores.items()}
        total = sum(s.size for s in scores.values())
        if sum(counts.values()) != keep:
            raise ValueError(
                f"{self} keeps {sum(counts.values())} of {total} weights, but the sparsity leaves {keep}: "
                f"use sparsity={1 - sum(counts.values()) / total:.6f}"
            )
        return counts

    def _kept(self, name: str, weight: Tensor) -> int:
        kept = next((count for pattern, count in self.columns.items() if matches([parameter_of(name)], pattern)), None)
        if kept is None or not 0 <= kept <= weight.shape[-1]:
            raise ValueError(
                f"{self} gives {kept} columns for '{name}' {tuple(weight.shape)}: name it, with at most so many"
            )
        return kept * weight.shape[0]
