"""Carry a removal of channels out: smaller parameters, and the few steps that name sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from reflow_lightning.collapse.edits import affine, new_buffer, owner, parameter_like, set_affine, tidy
from reflow_lightning.collapse.facts.groups import Axis, Channels
from reflow_lightning.collapse.facts.intervals import uniform
from reflow_lightning.collapse.graph.sizes import pad_along
from reflow_lightning.collapse.graph.steps import Steps
from reflow_lightning.collapse.passes.removal import Read, Removal
from reflow_lightning.running.errors import ReflowError


class MismatchError(ReflowError, ValueError):
    """An addition would have an operand with channels that its result lacks."""


@torch.no_grad()
def remove_channels(steps: Steps, channels: Channels, bounds: Mapping[fx.Node, Any], removal: Removal) -> None:
    """Change the graph and its modules.

    Raises:
        MismatchError: If an addition that was taken apart does not fit.
    """
    axes = {node: channels.axis(node) for node in steps.traced.graph.nodes}  # before anything changes
    for node in steps:
        name, axis = steps.name(node), axes[node]
        if name in ("conv", "linear"):
            _weighted(node, steps.module(node), axis, removal)
        elif axis is None:
            continue
        elif name == "batchnorm":
            _batchnorm(steps.module(node), removal.keeps(axis.numbers))
        elif name == "prelu":
            _prelu(steps.module(node), removal.keeps(axis.numbers))
        elif name == "get_attr":
            _attribute(steps, node, axis, removal.keeps(axis.numbers))
        elif name in ("view", "reshape", "expand"):
            _resize(node, axis, removal.keeps(axis.numbers))
        elif name == "pad":
            _pad(node, axis, axes[node.args[0]], removal)
        elif name == "index_add":
            _index(steps, node, axes, removal)
        elif node in channels.apart:
            _add(steps, channels, bounds, node, axes, removal)
    tidy(steps.traced)


def _weighted(node: fx.Node, module: Any, axis: Axis | None, removal: Removal) -> None:
    weight, bias = affine(module)
    outs = torch.ones(len(weight), dtype=torch.bool) if axis is None else removal.keeps(axis.numbers)
    read, ins = removal.reads.get(node), None
    if read is not None:
        ins = removal.keeps(read.numbers)
        weight, bias = _fold(weight, bias, read, ins, removal.carriers.get(node, {}))
        weight = weight[:, ins.to(weight.device)]
    if bool(outs.all()) and (ins is None or bool(ins.all())):
        return
    groups = getattr(module, "groups", 1)
    if groups > 1:
        module.groups = int(outs.sum()) // (len(weight) // groups)
    outs = outs.to(weight.device)
    set_affine(module, weight[outs], bias[outs])


def _fold(
    weight: Tensor, bias: Tensor, read: Read, stays: Tensor, carriers: Mapping[int, int]
) -> tuple[Tensor, Tensor]:
    """Weight and bias that take over what the channels that go contribute."""
    weight = weight.clone()
    values = read.values.to(weight)
    for place, carrier in carriers.items():
        weight[:, carrier] += weight[:, place] * (values[place] / values[carrier])
    places = [p for p in (~stays).nonzero().flatten().tolist() if p not in carriers]
    used = [p for p in places if bool(weight[:, p].any()) and not bool(values[p].isnan())]
    if used:
        sums = weight[:, used].flatten(2).sum(2) if weight.ndim > 2 else weight[:, used]
        bias = bias + sums @ values[used]
    return weight, bias


def _batchnorm(module: Any, stays: Tensor) -> None:
    if bool(stays.all()):
        return
    for name in ("weight", "bias"):
        if (value := getattr(module, name)) is not None:
            setattr(module, name, parameter_like(value[stays.to(value.device)], value))
    for name in ("running_mean", "running_var"):
        value = getattr(module, name)
        setattr(module, name, value[stays.to(value.device)])
    module.num_features = int(stays.sum())


def _prelu(module: Any, stays: Tensor) -> None:
    weight: Tensor = module.weight
    if weight.numel() > 1 and not bool(stays.all()):
        module.weight = parameter_like(weight[stays.to(weight.device)], weight)
        module.num_parameters = int(stays.sum())


def _attribute(steps: Steps, node: fx.Node, axis: Axis, stays: Tensor) -> None:
    if bool(stays.all()):
        return
    holder, name = owner(steps.traced, str(node.target))
    value: Tensor = getattr(holder, name)
    smaller = value.index_select(axis.dim, stays.nonzero().flatten().to(value.device))
    is_parameter = isinstance(value, nn.Parameter)
    setattr(holder, name, parameter_like(smaller, value) if is_parameter else smaller)


def _resize(node: fx.Node, axis: Axis, stays: Tensor) -> None:
    """Correct a size that is written into the graph."""
    first, sizes = node.args[0], node.args[1:]
    nested = len(sizes) == 1 and isinstance(sizes[0], (tuple, list))
    given: Any = sizes[0] if nested else sizes
    flat = list(given)
    if axis.dim < len(flat) and isinstance(flat[axis.dim], int) and flat[axis.dim] == len(stays):
        flat[axis.dim] = int(stays.sum())
        node.args = (first, tuple(flat)) if nested else (first, *flat)


def _pad(node: fx.Node, axis: Axis, given: Axis | None, removal: Removal) -> None:
    """Correct how many channels are added."""
    given_amounts: Any = node.args[1] if len(node.args) > 1 else node.kwargs["pad"]
    amounts = list(given_amounts)
    ndim = node.meta["ndim"]
    before, _ = pad_along(amounts, ndim, axis.dim)
    start = 2 * (ndim - 1 - axis.dim)
    if start + 1 >= len(amounts) or given is None:
        return
    stays = removal.keeps(axis.numbers)
    amounts[start] = int(stays[:before].sum())
    amounts[start + 1] = int(stays[before + len(given.numbers) :].sum())
    if len(node.args) > 1:
        node.args = (node.args[0], tuple(amounts), *node.args[2:])
    else:
        node.kwargs = {**node.kwargs, "pad": tuple(amounts)}


def _index(steps: Steps, node: fx.Node, axes: Mapping[fx.Node, Axis | None], removal: Removal) -> None:
    """Correct at which channels something is added."""
    where: Any = node.args[2]
    holder, name = owner(steps.traced, str(where.target))
    index: Tensor = getattr(holder, name)
    whole = axes[node]
    assert whole is not None
    stays = removal.keeps(whole.numbers)
    places = stays.cumsum(0) - 1
    setattr(holder, name, places[index.cpu()][stays[index.cpu()]].to(index))


def _add(
    steps: Steps,
    channels: Channels,
    bounds: Mapping[fx.Node, Any],
    node: fx.Node,
    axes: Mapping[fx.Node, Axis | None],
    removal: Removal,
) -> None:
    """Add the operand that lost channels at the places of those that it still has."""
    (part,) = channels.apart[node]
    (lead,) = (n for n in node.all_input_nodes if n is not part)
    own, whole = axes[part], axes[node]
    assert own is not None
    assert whole is not None
    has, wants = removal.keeps(own.numbers), removal.keeps(whole.numbers)
    if bool((has & ~wants).any()):
        raise MismatchError(f"{node.name} would add channels that its result lacks: they stay")
    if bool((has == wants).all()):
        return
    missing = wants & ~has
    constants = uniform(bounds[part], own.dim).where(missing, 0.0)[wants]
    like = next(p for p in steps.traced.parameters() if p.is_floating_point())
    graph, position = steps.traced.graph, has[wants].nonzero().flatten()
    with graph.inserting_before(node):
        if bool(constants.any()):
            shape = [1] * node.meta["ndim"]
            shape[whole.dim] = -1
            shift = graph.get_attr(new_buffer(steps.traced, f"constant_{node.name}", constants.to(like).view(shape)))
            lead = graph.call_function(torch.add, (lead, shift))
        index = graph.get_attr(new_buffer(steps.traced, f"index_{node.name}", position.to(like.device)))
        total = graph.call_function(torch.index_add, (lead, whole.dim, index, part))
    node.replace_all_uses_with(total)
    graph.erase_node(node)
