"""One exact step after the other, each of them checked."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

from torch import fx, nn

from reflow_lightning.depth.analysis import Analysis
from reflow_lightning.depth.constants import drop_constant_branches
from reflow_lightning.depth.edits import Row, bypass, tidy
from reflow_lightning.depth.exactness import Expected, Inputs
from reflow_lightning.depth.leftovers import leftovers
from reflow_lightning.depth.merging import merge_layers
from reflow_lightning.depth.rectifying import straighten
from reflow_lightning.depth.removal import find_removal
from reflow_lightning.depth.report import CollapseReport, attach
from reflow_lightning.depth.rewriting import remove_channels
from reflow_lightning.depth.steps import is_weighted

Change = Callable[[Analysis], list[Row]]
"""Changes a graph and says how; an empty list if there was nothing to change."""

_MOST_ROUNDS = 100


class Work:
    """A network that gets smaller, and the record of how.

    Args:
        traced: The network.
        inputs: What each step is checked on.
        tolerance: Largest difference of an output, relative to the largest of that output.
    """

    def __init__(self, traced: fx.GraphModule, inputs: Sequence[Inputs], tolerance: float) -> None:
        self.traced = traced
        self.tolerance = tolerance
        self.inputs = inputs
        self.expected = Expected(copy.deepcopy(traced).forward, inputs)
        self.widths = _widths(traced)
        self.done: list[Row] = []
        self.refused: dict[str, Row] = {}
        self._observes = False
        self._found = ""

    def attempt(self, what: str, change: Change) -> bool:
        """Take a step if the network does the same after it; whether it was taken."""
        if what in self.refused:
            return False
        candidate = copy.deepcopy(self.traced)
        try:
            rows = change(Analysis(candidate, self.inputs, self._observes))
            if not rows:
                return False
            candidate.recompile()
            deviation = self.expected.deviation(candidate.forward)
            reason = f"would change an output by {deviation:.1e} of the largest" if deviation > self.tolerance else None
        except Exception as error:  # a step that does not fit what the network does: it is not taken
            message = next(iter(str(error).splitlines()), "")
            reason = f"does not fit this network ({type(error).__name__}: {message})"
        if reason is not None:
            self.refused[what] = Row(what, "the whole step", reason)
            return False
        self.traced = candidate
        self.done += rows
        return True

    def simplify(self, found: str, observes: bool = False) -> None:
        """Remove, fold and merge until there is nothing more to do.

        Args:
            found: How it is known what rectifiers do, for the report.
            observes: Whether what was observed counts.
        """
        self._found, self._observes = found, observes
        changes: dict[str, Change] = {
            "branch": lambda a: drop_constant_branches(a.steps, a.bounds, a.values),
            "rectifier": lambda a: straighten(a.steps, a.bounds, a.dims, found)[0],
            "channels": _remove_channels,
            "merge": lambda a: merge_layers(a.steps, a.values)[0],
        }
        for _ in range(_MOST_ROUNDS):
            taken = [self.attempt(what, change) for what, change in changes.items()]
            if not any(taken):
                break

    def finish(self) -> fx.GraphModule:
        """The network as it is now, with its report."""
        analysis = Analysis(copy.deepcopy(self.traced), self.inputs, self._observes)
        left = leftovers(analysis)
        left += straighten(analysis.steps, analysis.bounds, analysis.dims, self._found)[1]
        left += merge_layers(analysis.steps, analysis.values)[1]
        removed = [row for row in self.done if row.what != "channels"] + self._narrowed()
        left += self.refused.values()
        deviation = self.expected.deviation(self.traced.forward)
        attach(self.traced, CollapseReport(tuple(removed), tuple(left), deviation))
        return self.traced

    def _narrowed(self) -> list[Row]:
        """How many channels each layer lost, all rounds together."""
        now = _widths(self.traced)
        return [
            Row("channels", name, f"{width - now[name]} of {width} were constant, or read by nobody")
            for name, width in self.widths.items()
            if now.get(name, width) < width
        ]


def drop_identities(analysis: Analysis) -> list[Row]:
    """Remove dropout and other steps that do nothing in eval mode."""
    nodes = [node for node in analysis.traced.graph.nodes if analysis.steps.name(node) == "identity"]
    nodes = [node for node in nodes if node.args and isinstance(node.args[0], fx.Node)]
    for node in nodes:
        bypass(node, node.args[0])
    if nodes:
        tidy(analysis.traced)
    return [Row("identity", str(node.target), "does nothing in eval mode") for node in nodes]


def _remove_channels(analysis: Analysis) -> list[Row]:
    removal = find_removal(analysis.steps, analysis.channels, analysis.bounds)
    if not removal.numbers:
        return []
    return remove_channels(analysis.steps, analysis.channels, analysis.bounds, removal)


def _widths(traced: nn.Module) -> dict[str, int]:
    return {name: len(m.weight) for name, m in traced.named_modules() if is_weighted(m)}
