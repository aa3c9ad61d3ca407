"""One exact step after the other, each of them checked."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

from torch import Tensor, fx, nn

from reflow_lightning.collapse.edits import Row, bypass, label, tidy
from reflow_lightning.collapse.exactness import Expected
from reflow_lightning.collapse.facts.analysis import Analysis
from reflow_lightning.collapse.facts.removal import MismatchError
from reflow_lightning.collapse.faults import Faults
from reflow_lightning.collapse.graph.running import StepFailedError
from reflow_lightning.collapse.leftovers import leftovers
from reflow_lightning.collapse.operators.affine import is_weighted, width
from reflow_lightning.collapse.passes.constants import drop_constant_branches
from reflow_lightning.collapse.passes.merging import fold_batchnorm, merge_layers
from reflow_lightning.collapse.passes.norms import fold_into_norms
from reflow_lightning.collapse.passes.rectifying import straighten
from reflow_lightning.collapse.passes.removal import find_removal
from reflow_lightning.collapse.passes.rewriting import remove_channels
from reflow_lightning.collapse.report import CollapseReport
from reflow_lightning.running.compat.torch import ASSERT
from reflow_lightning.running.copying import dense_copy
from reflow_lightning.running.describing import summary

Change = Callable[[Analysis], list[Row]]
"""Changes a graph and says how; an empty list if it changed nothing."""

_MOST_ROUNDS = 100


class Work:
    """A network that gets smaller, and the record of how.

    Args:
        traced: The network.
        expected: What each step is checked against.
        tolerance: Largest difference of an output, relative to the largest of that output.
        splits_sums: See `Analysis`.
    """

    def __init__(self, traced: fx.GraphModule, expected: Expected, tolerance: float, splits_sums: bool = True) -> None:
        self.traced = traced
        self.tolerance = tolerance
        self.expected = expected
        self.widths = _widths(traced)
        self.done: list[Row] = []
        self.faults = Faults()
        self.refused: dict[tuple[str, str], Row | None] = {}
        self.deviation: float | None = None  # of the network as it is now, if that was measured
        self._splits_sums = splits_sums
        self._observes = False
        self._found = ""
        self._untouched: Analysis | None = None

    def attempt(self, what: str, change: Change, where: str = "") -> bool:
        """Take a step, everywhere or at one layer, if the network does the same after it; whether it was taken."""
        if (what, where) in self.refused:
            return False
        analysis, self._untouched = self._analysis(), None
        analysis.steps.at = None
        deviation = None
        try:
            rows = change(analysis)
            if not rows:
                self._untouched = analysis  # what was worked out serves the next step
                return False
            analysis.traced.recompile()
            deviation, reason = self._checked(analysis.traced)
        except (MismatchError, StepFailedError) as error:
            reason = _misfit(error)
        except Exception as error:
            self._note(error, analysis, where or what)
            self.refused[what, where] = None  # the report has it already
            return False
        if reason is not None:
            self.refused[what, where] = Row(what, where or "the whole step", reason)
            return False
        self.traced, self.deviation = analysis.traced, deviation
        self.done += rows
        return True

    def _checked(self, candidate: fx.GraphModule) -> tuple[float | None, str | None]:
        """How far a network is from what is expected; and why it can't take the other's place, if it can't."""
        try:
            deviation = self.expected.deviation(candidate)
        except (StepFailedError, ValueError) as error:  # it does not run, or puts out other shapes
            return None, _misfit(error)
        too_far = deviation > self.tolerance
        return deviation, f"would change an output by {deviation:.1e} of the largest" if too_far else None

    def _note(self, error: Exception, analysis: Analysis, what: str) -> None:
        self.faults.note(error, what if analysis.steps.at is None else label(analysis.steps.at))

    def _analysis(self) -> Analysis:
        """What is known of a copy of the network that no step has changed yet."""
        return self._untouched or Analysis(
            _copy(self.traced), self.expected.inputs, self._observes, self.faults, self._splits_sums
        )

    def simplify(self, found: str, observes: bool = False) -> None:
        """Remove, fold and merge until there is nothing more to do.

        Args:
            found: How it is known what rectifiers do, for the report.
            observes: Whether what was observed counts.
        """
        self._found, self._observes, self._untouched = found, observes, None
        changes: dict[str, Change] = {
            "batchnorm": lambda a: fold_batchnorm(a.steps, a.values),
            "branch": lambda a: drop_constant_branches(a.steps, a.bounds, a.values),
            "rectifier": lambda a: straighten(a.steps, a.bounds, a.dims, found)[0],
            "channels": _remove_channels,
            "merge": lambda a: merge_layers(a.steps, a.values)[0],
        }
        if self._splits_sums:  # further steps in the graph are possible
            changes["norm"] = _fold_into_norms
        for _ in range(_MOST_ROUNDS):
            taken = [self.attempt(what, change) for what, change in changes.items()]
            by_layer = {
                "channels": (_remove_channels, _widths(self.traced)),
                "norm": (_fold_into_norms, _norms(self.traced)),
            }
            for what, (change, names) in by_layer.items():
                if (what, "") in self.refused:  # together; by themselves some may fit
                    taken += [self.attempt(what, partial(change, only=name), name) for name in names]
            if not any(taken):
                break

    def report(self) -> CollapseReport:
        """What was done, and what was left."""
        analysis = self._analysis()
        found: dict[str, Change] = {
            "leftovers": leftovers,
            "rectifier": lambda a: straighten(a.steps, a.bounds, a.dims, self._found)[1],
            "merge": lambda a: merge_layers(a.steps, a.values)[1],
        }
        left: list[Row] = []
        for what, find in found.items():
            analysis.steps.at = None
            try:
                left += find(analysis)
            except Exception as error:
                self._note(error, analysis, what)
        removed = [row for row in self.done if row.what != "channels"] + self._narrowed()
        refused = [row for row in self.refused.values() if row is not None]
        left += [*refused, *self.faults.rows]
        deviation = self.expected.deviation(self.traced) if self.deviation is None else self.deviation
        return CollapseReport(tuple(removed), tuple(left), deviation)

    def _narrowed(self) -> list[Row]:
        """How many channels each layer lost, all rounds together."""
        now = _widths(self.traced)
        return [
            Row("channels", name, f"{before - now[name]} of {before} were constant, or read by nobody")
            for name, before in self.widths.items()
            if now.get(name, before) < before
        ]


def drop_identities(analysis: Analysis) -> list[Row]:
    """Remove dropout and other steps that do nothing in eval mode, and checks of sizes, which held on the example."""
    nodes = [node for node in analysis.traced.graph.nodes if analysis.steps.name(node) == "identity"]
    nodes = [node for node in nodes if node.args and isinstance(node.args[0], fx.Node)]  # not by name
    checks = [node for node in analysis.traced.graph.nodes if node.target is ASSERT and node.all_input_nodes]
    checks = [node for node in checks if not isinstance(analysis.values.get(node.all_input_nodes[0]), Tensor)]
    for node in nodes:
        bypass(node, node.args[0])
    for node in checks:
        node.graph.erase_node(node)
    if nodes or checks:
        tidy(analysis.traced)
    return [Row("identity", label(node), "does nothing in eval mode") for node in (*nodes, *checks)]


def _remove_channels(analysis: Analysis, only: str | None = None) -> list[Row]:
    removal = find_removal(analysis.steps, analysis.channels, analysis.bounds, only)
    if not removal.numbers:
        return []
    remove_channels(analysis.steps, analysis.channels, analysis.bounds, removal)
    return [Row("channels", only or "all layers", f"{len(removal.numbers)} channels are constant or read by nobody")]


def _fold_into_norms(analysis: Analysis, only: str | None = None) -> list[Row]:
    return fold_into_norms(analysis.steps, analysis.bounds, analysis.values, only)


def _misfit(error: Exception) -> str:
    return f"does not fit this network ({error if isinstance(error, StepFailedError) else summary(error)})"


def _copy(traced: fx.GraphModule) -> fx.GraphModule:
    return cast("fx.GraphModule", dense_copy(traced))


def _norms(traced: nn.Module) -> list[str]:
    return [name for name, module in traced.named_modules() if isinstance(module, nn.LayerNorm)]


def _widths(traced: nn.Module) -> dict[str, int]:
    return {name: width(m) for name, m in traced.named_modules() if is_weighted(m)}
