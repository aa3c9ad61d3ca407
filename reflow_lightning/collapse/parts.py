"""Collapse the parts of a network that can't be looked into as a whole, each in its place."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Sequence

from torch import fx, nn

from reflow_lightning.collapse.edits import Row
from reflow_lightning.collapse.exactness import Expected
from reflow_lightning.collapse.graph.inputs import is_flag
from reflow_lightning.collapse.graph.running import StepFailedError, attempted, undisturbed
from reflow_lightning.collapse.graph.tracing import NotTraceableError
from reflow_lightning.collapse.operators.affine import is_weighted
from reflow_lightning.collapse.placing import Placement, TiedError, put_graph, put_layers
from reflow_lightning.collapse.simplifying import Simplified, simplified
from reflow_lightning.running.arguments import Arguments, arguments_of_calls, called
from reflow_lightning.running.describing import summary
from reflow_lightning.running.hooks import Call, watching_inputs
from reflow_lightning.running.own import own

Put = Callable[[Placement, nn.Module, Simplified], nn.Module]
"""Puts what is left of a module in its place, and returns the module that is there now."""


class Parts:
    """The parts of a network that are collapsed one by one, the largest first, and the record of it.

    The network itself is the largest, and becomes a graph if it can. Another part is run with all that it is called
    with when the network runs. It is changed where that leaves its own output and the network's as they are. If its own
    forward pass does the same with the layers that are left, it keeps its class and all names; else it becomes a graph.

    Args:
        network: In eval mode; it is changed.
        expected: What the network is called with, and what it puts out.
        tolerance: Largest allowed difference of an output, relative to the largest of that output.
        batches: How many batches of real data are among the inputs.

    Attributes:
        network: The network as it is now.
        deviation: The largest difference of an output, relative to the largest of that output.
        removed: What was removed.
        left: What was not, and why.
    """

    def __init__(self, network: nn.Module, expected: Expected, tolerance: float, batches: int) -> None:
        self.network = network
        self.deviation = 0.0
        self.removed: list[Row] = []
        self.left: list[Row] = []
        self._expected, self._tolerance, self._batches = expected, tolerance, batches

    def collapse(self, names: Sequence[str]) -> None:
        """Collapse the modules of these names, and then those within them that are not looked into."""
        waiting = deque(names)
        seen: set[nn.Module] = set()
        while waiting:
            name = waiting.popleft()
            module = self.network.get_submodule(name)
            if module not in seen:
                seen.add(module)
                waiting.extend(f"{name}.{inner}".lstrip(".") for inner in self._collapse(name, module))

    def _collapse(self, name: str, module: nn.Module) -> list[str]:
        """Collapse one module; the names of the modules within it that come next."""
        children = [inner for inner, _ in module.named_children()]
        calls = self._calls(name) if name and children else []
        if name and not calls:
            if any(is_weighted(child) for child in module.children()):
                self.left.append(Row("module", name, "never called: its parent calls its layers one by one, or none"))
            return children
        try:
            expected = Expected(module, arguments_of_calls(module, calls)) if name else self._expected
            found = self._simplified(module, expected)
        except (NotTraceableError, StepFailedError, ValueError) as error:
            self.left.append(Row("module", _called(name), f"not looked into as a whole: {_reason(error)}"))
            return children
        if name and not _does_something(found):
            self.left += _within(name, found.report.left)
            return found.parts
        ways = ((put_layers, put_graph) if _is_called_alike(module, expected.inputs) else (put_layers,)) if name else ()
        reason = self._place(ways or (put_graph, put_layers), name, module, found, expected)
        if not reason:
            return found.parts
        found = self._simplified(module, expected, splits_sums=False)
        if not _does_something(found) or self._place((put_layers,), name, module, found, expected):
            self.left.append(Row("module", _called(name), f"not changed as a whole: {reason}"))
        return children

    def _simplified(self, module: nn.Module, expected: Expected, splits_sums: bool = True) -> Simplified:
        return simplified(module, expected, self._tolerance, self._batches, splits_sums)

    def _place(self, ways: Sequence[Put], name: str, module: nn.Module, found: Simplified, expected: Expected) -> str:
        """Put what is left of a module in its place in the first way that can stay; why none can, else nothing."""
        reason = ""
        for put in ways:
            placement = Placement(self.network)
            try:
                part = put(placement, module, found)
                reason = self._check(placement.network, part, expected, found.report.deviation)
            except TiedError as error:
                reason = str(error)
            if not reason:
                self.network = placement.network
                self._note(name, found, is_graph=put is put_graph)
                break
            placement.undo()
        return reason

    def _calls(self, name: str) -> list[Call]:
        """The calls of a module as the network runs on all inputs."""
        calls: list[Call] = []
        for inputs in self._expected.inputs:
            with (
                undisturbed(self.network),
                watching_inputs(self.network, [name], lambda _, call: calls.append(own(call))),
            ):
                attempted(called, self.network, own(inputs))
        return calls

    def _check(self, network: nn.Module, part: nn.Module, expected: Expected, of_graph: float) -> str:
        """Why a change of a part can't stay; nothing if it can."""
        try:
            if not expected.is_alike(part):
                return "its graph puts out the same tensors in another collection"
            deviation = of_graph if isinstance(part, fx.GraphModule) else expected.deviation(part)
            if part is not network and deviation <= self._tolerance:
                deviation = self._expected.deviation(network)
        except (StepFailedError, ValueError) as error:
            return f"the network does not run then ({_reason(error)})"
        if deviation > self._tolerance:
            return f"would change an output by {deviation:.1e} of the largest"
        self.deviation = deviation
        return ""

    def _note(self, name: str, found: Simplified, is_graph: bool) -> None:
        removed = [row for row in found.report.removed if is_graph or row.what not in ("identity", "function")]
        stays = [row for row in removed if not is_graph and row.what == "rectifier" and row.where not in found.used]
        self.removed += _within(name, [row for row in removed if row not in stays])
        self.left += _within(name, found.report.left)
        self.left += _within(name, [row._replace(why="always on, but called as a function") for row in stays])
        if is_graph and name:
            self.removed.append(Row("module", name, "replaced by a graph of its layers, which keep their names"))


def _does_something(found: Simplified) -> bool:
    return any(row.what != "identity" for row in found.report.removed)


def _within(name: str, rows: Sequence[Row]) -> list[Row]:
    return [row._replace(where=f"{name}.{row.where}") if name else row for row in rows]


def _is_called_alike(module: nn.Module, calls: Sequence[Arguments]) -> bool:
    """Whether no argument of a forward pass is a flag, given or by default: a graph knows the ones that it has seen.

    Networks of transformers, for one, pass no mask where there is no padding.
    """
    parameters = inspect.signature(module.forward).parameters
    if any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in parameters.values()):
        return False
    defaults = [p.default for p in parameters.values()]
    for call in calls:
        given = dict(zip(parameters, call, strict=False)) if isinstance(call, tuple) else call
        left = [default for name, default in zip(parameters, defaults, strict=True) if name not in given]
        if any(map(is_flag, (*given.values(), *left))):
            return False
    return True


def _called(name: str) -> str:
    return name or "the whole network"


def _reason(error: Exception) -> str:
    return summary(error.__cause__ if isinstance(error.__cause__, Exception) else error)
