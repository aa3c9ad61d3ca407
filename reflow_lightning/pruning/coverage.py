"""How much of all matrices of a model is pruned, and which of them were left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor, nn

from reflow_lightning.layers import Inventory, Owned
from reflow_lightning.pruning.unprunable import sources
from reflow_lightning.running.names import few


@dataclass(frozen=True)
class Coverage:
    """What masks prune of a model, seen over all of its matrices.

    A matrix is a parameter that multiplies the signal: the weights of known layers, frozen and computed ones too, and
    parameters of unknown layers that look like one; see `Inventory.unknown`. Biases, norms and tables that are looked
    up or added, such as embeddings, are none, and a decoder that is tied to an embedding is that embedding.

    Attributes:
        pruned: Number of weights that are pruned.
        matrices: Number of elements of all matrices, and of other parameters that were selected.
        left: Number of matrices that could not lose a weight, by the type of their layer, the largest first.
        tables: Number of elements of embeddings that were not selected, which are in no other number.
    """

    pruned: int
    matrices: int
    left: Mapping[str, int] = field(default_factory=dict)
    tables: int = 0

    @property
    def share(self) -> float:
        """Share of the elements of all matrices that is pruned."""
        return self.pruned / self.matrices if self.matrices else 0.0

    @property
    def share_with_tables(self) -> float:
        """Share of the elements of matrices *and* embeddings that is pruned."""
        return self.pruned / (self.matrices + self.tables) if self.matrices else 0.0

    @property
    def words(self) -> str:
        """What was not selected, in words; empty if everything was selected.

        Example:
            >>> Coverage(70, 1000, {"Conv1D": 48, "Experts": 2}).words
            '0.0700 of all matrices; left: Conv1D x 48, Experts x 2'
            >>> Coverage(90, 100, tables=300).words
            '0.2250 with the embeddings, which are dense and 75 % of all'
        """
        named = [f"{kind} x {count}" for kind, count in self.left.items()]
        parts = [f"{self.share:.4f} of all matrices; left: {few(named, what='types', most=6)}"] if named else []
        if self.tables:
            of_all = self.tables / (self.matrices + self.tables)
            parts.append(f"{self.share_with_tables:.4f} with the embeddings, which are dense and {of_all:.0%} of all")
        return " = ".join(parts).replace("%", " %")

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self) | {"share": self.share, "share_with_tables": self.share_with_tables}


def coverage_of(model: nn.Module, kept: Mapping[str, int]) -> Coverage:
    """What is pruned of a model, seen over all of its matrices; see `Masks.coverage`.

    Args:
        model: The model.
        kept: How many weights stay of each parameter that was selected, by name. Names of buffers count for nothing.

    Example:
        >>> model = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 8), nn.Linear(8, 2))
        >>> coverage_of(model, {"1.weight": 32})
        Coverage(pruned=32, matrices=80, left={'Linear': 1}, tables=72)
    """
    known, named = Inventory.of(model), dict(model.named_parameters(remove_duplicate=False))
    tables = {id(p): p for layer in known.layers.values() if layer.is_embedding for p in layer.module.parameters()}
    kinds: dict[int, tuple[Tensor, str]] = {
        id(named[name]): (named[name], kind) for name, kind in known.unknown.items()
    }
    for owned in known.weights.values():
        parameter = _computed_from(owned) if owned.parameter is None else owned.parameter
        if parameter is not None and not nn.parameter.is_lazy(parameter):
            kinds[id(parameter)] = (parameter, type(owned.layer.module).__name__.removeprefix("Parametrized"))
    selected = {id(named[name]): (named[name], count) for name, count in kept.items() if name in named}
    matrices = {key: parameter for key, (parameter, _) in kinds.items() if key not in tables}
    counted = matrices | {key: parameter for key, (parameter, _) in selected.items()}
    left: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for key in matrices.keys() - selected.keys():
        parameter, kind = kinds[key]
        left[kind] += bool(parameter.numel())
        sizes[kind] += parameter.numel()
    return Coverage(
        sum(parameter.numel() - count for parameter, count in selected.values()),
        sum(parameter.numel() for parameter in counted.values()),
        {kind: left[kind] for kind in sorted(sizes, key=lambda kind: (-sizes[kind], kind)) if left[kind]},
        sum(p.numel() for key, p in tables.items() if key not in selected and not nn.parameter.is_lazy(p)),
    )


def _computed_from(owned: Owned) -> Tensor | None:
    """The largest of the parameters that a weight is computed from in a way that is unknown."""
    starts = sources(owned.weight.name.rpartition(".")[2])
    found = (p for name, p in owned.holder.named_parameters() if name.startswith(starts))
    return max(found, key=lambda parameter: parameter.numel(), default=None)
