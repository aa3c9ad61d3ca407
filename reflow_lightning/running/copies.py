"""Modules within a model that are built like a trained one, and are not trained: targets, teachers, averages."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.parameter import is_lazy


@dataclass(frozen=True)
class Copy:
    """A module that is built like another one, and is not trained as that is.

    Attributes:
        name: Its name.
        sources: The names of the trained modules that are built alike.
    """

    name: str
    sources: tuple[str, ...]

    def names(self, model: nn.Module) -> list[dict[str, str]]:
        """For each source, the names of its tensors by the names in the copy, unless they wait for a first pass.

        A parameter that several layers share has the first of its names, as in ``named_parameters()``.
        """
        first = {id(parameter): name for name, parameter in model.named_parameters()}
        copy = model.get_submodule(self.name)
        within = {name: first[id(p)] for name, p in copy.named_parameters() if not is_lazy(p)}
        return [
            {follower: first[id(model.get_submodule(source).get_parameter(name))] for name, follower in within.items()}
            for source in self.sources
        ]


def copies_in(model: nn.Module, trained: Collection[int]) -> list[Copy]:
    """Modules of a model that are built like one that is trained, and are not: targets, teachers, averages.

    Whether such a module follows the other is not known from how it is built: a teacher that was trained before does
    not.

    Args:
        model: Any module.
        trained: The ids of the parameters that an optimizer trains.

    Example:
        >>> model = nn.ModuleDict({"online": nn.Linear(2, 2), "target": nn.Linear(2, 2)})
        >>> copies_in(model, trained=set(map(id, model.online.parameters())))
        [Copy(name='target', sources=('online',))]
    """
    builds: dict[object, list[str]] = {}
    for name, module in model.named_modules():
        if name and any(id(parameter) in trained for parameter in module.parameters()):
            builds.setdefault(_build(module), []).append(name)
    found: list[Copy] = []
    for name, module in untrained_modules(model, trained):
        within = any(name.startswith(f"{copy.name}.") for copy in found)
        if not within and (alike := builds.get(_build(module))):
            found.append(Copy(name, tuple(alike)))
    return found


def untrained_modules(model: nn.Module, trained: Collection[int]) -> Iterator[tuple[str, nn.Module]]:
    """Modules that have matrices and no trained parameter, each before those within it."""
    for name, module in model.named_modules():
        parameters = list(module.parameters())
        if name and any(map(is_matrix, parameters)) and not any(id(p) in trained for p in parameters):
            yield name, module


def is_matrix(parameter: Tensor) -> bool:
    """Whether a parameter has two dimensions or more; one that waits for its first forward pass has none."""
    return not is_lazy(parameter) and parameter.ndim > 1


def _build(module: nn.Module) -> object:
    shapes = ((name, None if is_lazy(p) else p.shape) for name, p in module.named_parameters())
    return type(module), tuple(shapes)
