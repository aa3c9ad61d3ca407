"""Small exact changes of the modules and the steps of a graph."""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

from torch import Tensor, fx, nn


class Row(NamedTuple):
    """One line of what was done, or left.

    Attributes:
        what: The kind of change: ``"channels"``, ``"branch"``, ``"rectifier"``, ``"merge"``, ``"batchnorm"``, or
            ``"norm"``.
        where: Name of the layer.
        why: What was found there.
    """

    what: str
    where: str
    why: str


def parameter_like(values: Tensor, like: Tensor) -> nn.Parameter:
    """A parameter of the type and on the device of another one."""
    return nn.Parameter(values.to(like), requires_grad=False)


def as_rows(values: Tensor, weight: Tensor) -> Tensor:
    """Values of shape (channels,) to be multiplied with the rows of a weight."""
    return values.to(weight).view(-1, *[1] * (weight.ndim - 1))


def new_buffer(traced: fx.GraphModule, name: str, value: Tensor) -> str:
    """Register a constant under a name that is free, which is returned."""
    traced.register_buffer(free := free_name(traced, name), value)
    return free


def free_name(traced: nn.Module, name: str) -> str:
    """The name, or one like it that nothing has in the module that would hold it."""
    free, number = name, 0
    while hasattr(*owner(traced, free)):
        number += 1
        free = f"{name}_{number}"
    return free


def bypass(node: fx.Node, by: fx.Node) -> None:
    """Let those that use a step use another one instead, and remove it."""
    node.replace_all_uses_with(by)
    node.graph.erase_node(node)


def tidy(traced: fx.GraphModule) -> None:
    """Remove the steps that nobody uses, and the modules and values that no step uses."""
    traced.graph.eliminate_dead_code()
    traced.delete_all_unused_submodules()
    used = {str(node.target) for node in traced.graph.nodes if node.op in ("get_attr", "call_module")}
    held = [name for name, _ in (*traced.named_buffers(), *traced.named_parameters(remove_duplicate=False))]
    for name in held:
        if used.isdisjoint(accumulate(name.split("."), "{}.{}".format)):  # neither itself nor a module that holds it
            delattr(*owner(traced, name))
    traced.graph.lint()
    traced.recompile()


def owner(traced: nn.Module, target: str) -> tuple[nn.Module, str]:
    """The module that holds an attribute, and the attribute's own name."""
    path, _, name = target.rpartition(".")
    return traced.get_submodule(path), name


def label(node: fx.Node) -> str:
    """What a report calls a step: the name of the module that it calls, else its own."""
    return str(node.target) if node.op == "call_module" else node.name


def is_fed_by_one(node: fx.Node) -> bool:
    """Whether a step's output goes to one other step only."""
    return len(node.users) == 1
