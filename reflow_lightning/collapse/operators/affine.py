"""Layers that put out ``W x + b``: what linear layers and convolutions have in common."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from reflow_lightning.collapse.edits import as_rows, parameter_like
from reflow_lightning.collapse.facts.following import Following
from reflow_lightning.collapse.facts.groups import Axis, spread
from reflow_lightning.collapse.facts.intervals import Bounds
from reflow_lightning.collapse.facts.operator import Operator
from reflow_lightning.collapse.facts.removal import Removal, Shrinking
from reflow_lightning.collapse.facts.step import Step
from reflow_lightning.collapse.graph.kind import MODULES
from reflow_lightning.layers import ConvLayer, TransposedConvLayer, layer_of
from reflow_lightning.layers.linear import TorchLinearLayer, TransposedLinearLayer

_WEIGHTED = (TorchLinearLayer, TransposedLinearLayer, ConvLayer, TransposedConvLayer)


def is_weighted(module: Any) -> bool:
    """Whether a module multiplies by weights: convolution or linear."""
    return isinstance(layer_of.known(module), _WEIGHTED)


def width(module: Any) -> int:
    """The number of output channels of a module that multiplies by weights.

    Example:
        >>> width(nn.Linear(2, 3)), width(nn.ConvTranspose2d(2, 4, 3, groups=2))
        (3, 4)
    """
    found = layer_of.known(module)
    if isinstance(found, TransposedConvLayer):
        return int(module.weight.shape[1]) * int(module.groups)
    return int(module.weight.shape[1 if isinstance(found, TransposedLinearLayer) else 0])


def affine(module: Any) -> tuple[Tensor, Tensor]:
    """Weight, its rows the output channels, and bias in float64; a bias of zeros where there is none."""
    weight = affine_of(module).rows(module.weight.detach(), module).double()
    bias: Tensor | None = module.bias
    return weight, weight.new_zeros(len(weight)) if bias is None else bias.detach().double()


def affine_of(module: nn.Module) -> Affine:
    """The operator of a convolution or linear layer."""
    return cast("Affine", MODULES[type(module).__name__])


class Affine(Operator):
    """A layer that has channels of its own, and reads the channels of its input."""

    @abstractmethod
    def channel_dim(self, ndim: int) -> int:
        """See `Operator`."""

    @abstractmethod
    def is_batched(self, module: Any, ndim: int) -> bool:
        """Whether an input of so many dimensions holds samples."""

    @abstractmethod
    def resize(self, module: Any) -> None:
        """Let the sizes of a layer follow its weight."""

    @abstractmethod
    def applied(self, module: Any, values: Tensor, weight: Tensor) -> Tensor:
        """The map with another weight and without its bias, of finite values; most are zero."""

    @abstractmethod
    def merge(self, one: Any, two: Any) -> nn.Module | str:
        """The layer that does what two do one after the other, or why there is none."""

    def groups(self, module: Any) -> int:
        """In how many groups the channels are."""
        return 1

    def is_uneven(self, module: Any) -> bool:
        """Whether a constant input may give something else at some positions, as where zeros are seen beside it."""
        return False

    def rows(self, weight: Tensor, module: Any) -> Tensor:
        """The weight of a layer with its output channels along dimension 0, and what each of them reads along 1."""
        return weight

    def laid_out(self, rows: Tensor, module: Any) -> Tensor:
        """The inverse of `rows`: a weight as the layer holds it."""
        return rows

    def of(self, module: Any, given: Bounds) -> Bounds:
        """Of ``W x + b``: what the positive and what the negative weights make of both ends."""
        weight = affine(module)[0].cpu()
        positive, negative = weight.clamp(min=0), weight.clamp(max=0)
        bias = 0.0 if module.bias is None else self._along(module.bias.double().cpu(), given.low.ndim)
        low, high = given

        def one_end(with_positive: Tensor, with_negative: Tensor, infinite: float) -> Tensor:
            total = self._finite(module, with_positive, positive) + self._finite(module, with_negative, negative) + bias
            endless = self._reaches(module, with_positive, positive) | self._reaches(module, with_negative, negative)
            return total.masked_fill(self._along(endless, total.ndim), infinite)

        return Bounds(one_end(low, high, -math.inf), one_end(high, low, math.inf))

    def _finite(self, module: Any, values: Tensor, weight: Tensor) -> Tensor:
        """The map without its bias; infinite values are left out, as infinity times zero is no number."""
        return self.applied(module, values.masked_fill(values.isinf(), 0.0), weight)

    def _reaches(self, module: Any, values: Tensor, weight: Tensor) -> Tensor:
        """Which output channels an infinite value reaches; of shape (channels,). One at any position counts for all."""
        infinite = values.isinf().movedim(self.channel_dim(values.ndim), 0).flatten(1).any(1)
        reading, groups = _reading(weight), self.groups(module)
        by_group = zip(reading.chunk(groups), infinite.chunk(groups), strict=True)
        return torch.cat([(rows & inputs).any(1) for rows, inputs in by_group])

    def _along(self, values: Tensor, ndim: int) -> Tensor:
        """Values of the channels as an output of so many dimensions has them."""
        return values.view(-1, *[1] * (ndim - 1 - self.channel_dim(ndim)))

    def bounds(self, step: Step) -> Any:
        """See `Operator`."""
        return self.of(step.module, step.first) if self.is_batched(step.module, step.value.ndim) else step.nothing

    def channels(self, step: Step, follow: Following) -> Any:
        """New channels; in a group they go or stay together with the inputs."""
        given, value, reason = step.first, step.value, step.node.name
        dim, groups = self.channel_dim(given.ndim), self.groups(step.module)
        batched = self.is_batched(step.module, given.ndim) or given.ndim == 1  # features of one sample
        numbers = follow.axis(given, dim, reason) if batched else None
        if not batched or (numbers is None and groups > 1):
            return follow.opaque(step, reason)
        out = follow.groups.new(value.shape[dim])
        if numbers is not None and groups > 1:
            ins, outs = numbers.view(groups, -1), out.view(groups, -1)
            follow.groups.unite(ins, ins[:, :1].expand_as(ins))
            follow.groups.unite(outs, ins[:, :1].expand_as(outs))
        return spread(Axis(dim, out), value.shape)

    def reading(self, module: Any) -> Tensor:
        """Which output channel reads which input channel; of shape (outputs, inputs)."""
        return _reading(self.rows(module.weight, module)).cpu()

    def shrink(self, node: fx.Node, shrinking: Shrinking) -> None:
        """Leave rows and columns out, and let the bias, or other columns, take over what constants contribute."""
        module, removal, axis = shrinking.steps.module(node), shrinking.removal, shrinking.axes[node]
        weight, bias = affine(module)
        outs = torch.ones(len(weight), dtype=torch.bool) if axis is None else removal.keeps(axis.numbers)
        ins = None
        if (read := removal.reads.get(node)) is not None:
            ins = removal.keeps(read.numbers)
            weight, bias = _fold(weight, bias, node, ins, removal)
            weight = weight[:, ins.to(weight.device)]
        if bool(outs.all()) and (ins is None or bool(ins.all())):
            return
        if (groups := self.groups(module)) > 1:
            module.groups = int(outs.sum()) // (len(weight) // groups)
        outs = outs.to(weight.device)
        self.set(module, weight[outs], bias[outs])

    @torch.no_grad()
    def set(self, module: Any, weight: Tensor, bias: Tensor) -> None:
        """Give a layer other values, in its own type; its sizes follow. The weight has its output channels as rows.

        One without a bias gets none if that would be zero.
        """
        like: Tensor = module.weight
        module.weight = parameter_like(self.laid_out(weight, module), like)
        if module.bias is not None or bool(bias.any()):
            module.bias = parameter_like(bias, like)
        self.resize(module)

    def rescale(self, module: Any, slope: Tensor, offset: Tensor) -> bool:
        """See `Operator`."""
        weight, bias = affine(module)
        slope, offset = slope.to(weight), offset.to(weight)
        self.set(module, weight * as_rows(slope, weight), bias * slope + offset)
        return True


def _reading(weight: Tensor) -> Tensor:
    return (weight != 0).flatten(2).any(2) if weight.ndim > 2 else weight != 0


def _fold(weight: Tensor, bias: Tensor, node: fx.Node, stays: Tensor, removal: Removal) -> tuple[Tensor, Tensor]:
    """Weight and bias that take over what the channels that go contribute."""
    carriers, weight = removal.carriers.get(node, {}), weight.clone()
    values = removal.reads[node].values.to(weight)
    for place, carrier in carriers.items():
        weight[:, carrier] += weight[:, place] * (values[place] / values[carrier])
    places = [p for p in (~stays).nonzero().flatten().tolist() if p not in carriers]
    used = [p for p in places if bool(weight[:, p].any()) and not bool(values[p].isnan())]
    if used:
        sums = weight[:, used].flatten(2).sum(2) if weight.ndim > 2 else weight[:, used]
        bias = bias + sums @ values[used]
    return weight, bias
