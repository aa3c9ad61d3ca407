"""One step of a graph, as operators see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, fx

from reflow_lightning.collapse.facts.intervals import of_rising, unknown
from reflow_lightning.collapse.graph.running import attempted
from reflow_lightning.collapse.graph.steps import Steps
from reflow_lightning.running.compat.torch import tree_map_only


@dataclass
class Step:
    """One step of a graph.

    Attributes:
        steps: All of them.
        node: The step.
        values: What each step puts out for some input; only the shapes count, and what is no tensor.
        args: What is known of its arguments: their bounds, or the numbers of their channels.
        kwargs: The same of those by name.
    """

    steps: Steps
    node: fx.Node
    values: Mapping[fx.Node, Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @cached_property
    def name(self) -> str:
        """What it does."""
        return self.steps.name(self.node)

    @property
    def module(self) -> Any:
        """The module that it calls."""
        return self.steps.module(self.node)

    @property
    def value(self) -> Any:
        """What it puts out."""
        return self.values[self.node]

    def argument(self, position: int, name: str = "input", otherwise: Any = None) -> Any:
        """What is known of one argument, which may be given by name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, otherwise)

    @property
    def first(self) -> Any:
        """What is known of its first argument, if that is not given by name."""
        return self.args[0] if self.args else None

    @property
    def nothing(self) -> Any:
        """Its bounds if nothing is known."""
        return tree_map_only(Tensor, unknown, self.value)

    @property
    def reads_tensors(self) -> bool:
        """Whether it reads nothing else; a size may be another one for other inputs."""
        return all(isinstance(self.values[given], Tensor) for given in self.node.all_input_nodes)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Run it on other arguments.

        Raises:
            StepFailedError: If it can't do with them.
        """
        return attempted(self.steps.function(self.node), *args, **kwargs)

    def rising(self) -> Any:
        """Its bounds if it never falls where its input grows."""
        return of_rising(self.run, self.args, self.kwargs, self.nothing)
