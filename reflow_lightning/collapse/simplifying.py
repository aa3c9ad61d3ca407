"""One module as a graph, and that graph made smaller."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx, nn

from reflow_lightning.collapse.exactness import Expected
from reflow_lightning.collapse.graph.running import StepFailedError
from reflow_lightning.collapse.graph.tracing import NotTraceableError, trace
from reflow_lightning.collapse.passes.modules import use_modules
from reflow_lightning.collapse.report import CollapseReport
from reflow_lightning.collapse.work import Work, drop_identities


@dataclass(frozen=True)
class Simplified:
    """A module without what makes no difference to its output.

    Attributes:
        graph: What is left of it.
        used: Names of the modules and values that it used before, without those that do nothing in eval mode.
        report: What was removed.
    """

    graph: fx.GraphModule
    used: frozenset[str]
    report: CollapseReport

    @property
    def parts(self) -> list[str]:
        """Names of the modules that the graph calls and does not look into, though they are made of others."""
        called = [node for node in self.graph.graph.nodes if node.op == "call_module"]
        names = dict.fromkeys(str(node.target) for node in called)
        return [name for name in names if any(True for _ in self.graph.get_submodule(name).children())]


def simplified(
    module: nn.Module, expected: Expected, tolerance: float, batches: int, splits_sums: bool = True
) -> Simplified:
    """What is left of a module without everything that makes no difference to its output.

    Args:
        module: In eval mode. It is not changed.
        expected: What it is called with, and what it puts out.
        tolerance: Largest allowed difference of an output, relative to the largest of that output.
        batches: How many batches of real data are among the inputs. With none, rectifiers are not observed.
        splits_sums: Whether channels may be missing in one operand of a sum. The module's own forward pass can't do
            that, only a graph can.

    Raises:
        NotTraceableError: If the module's forward pass can't be written as a graph.
    """
    work = Work(_traced(module, expected, tolerance), expected, tolerance, splits_sums)
    work.attempt("identity", drop_identities)
    used = frozenset(str(node.target) for node in work.traced.graph.nodes if node.op in ("call_module", "get_attr"))
    work.attempt("function", lambda analysis: use_modules(analysis.steps, analysis.values))
    work.simplify("proved by the weights")
    if batches:
        work.simplify(f"on {batches} batches", observes=True)
    return Simplified(work.traced, used, work.report())


def _traced(module: nn.Module, expected: Expected, tolerance: float) -> fx.GraphModule:
    """The graph of a module, which must do the same."""
    name = type(module).__name__
    traced = trace(module, expected.inputs[0])
    try:
        deviation = expected.deviation(traced)
    except (StepFailedError, ValueError) as error:
        raise NotTraceableError(f"the graph of {name} does not run ({error})") from error
    if deviation > tolerance:
        raise NotTraceableError(
            f"the graph of {name} does something else than the module, by {deviation:.1e} of the largest output: hooks "
            "of the module itself, or writing into a view?"
        )
    return traced
