"""Which channels of a network can only be removed together: those of one sum, of one depthwise convolution, and so on.

Every element of every activation carries the number of its channel through the network: convolutions and linear layers
give new numbers, whatever moves values moves numbers, and where two meet, as in a residual addition, they become one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map_only

from reflow_lightning.collapse.edits import label
from reflow_lightning.collapse.facts.apart import part_of_sum
from reflow_lightning.collapse.facts.groups import Axis, Channels, Groups, along, is_numbers, labels_of, spread
from reflow_lightning.collapse.faults import Faults
from reflow_lightning.collapse.graph.running import StepFailedError, attempted
from reflow_lightning.collapse.graph.sizes import is_computed_with, names_places, pad_along, size_at, size_given_by
from reflow_lightning.collapse.graph.steps import (
    ACTIVATIONS,
    MOVES,
    PAIRS,
    POOLS,
    REDUCTIONS,
    SHAPES,
    Steps,
    after_inputs,
    broadcast,
)

_MOST = 1 << 20  # elements of a parameter that is used by itself, beyond which its channels are not followed


class ChannelInterpreter(fx.Interpreter):
    """Follows the channels of a graph.

    Args:
        traced: The graph.
        values: What each step puts out for some input; only the shapes count, and what is no tensor.
        bounds: See `BoundsInterpreter`.
        faults: Where errors of our own are kept.

    Example:
        >>> from torch import nn
        >>> from reflow_lightning.collapse.graph.tracing import trace
        >>> traced = trace(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)))
        >>> shapes = {node: torch.zeros(1, 3 if node.name in ("_0", "_1") else 2) for node in traced.graph.nodes}
        >>> channels = ChannelInterpreter(traced, shapes, {}).follow()
        >>> first, relu = (channels.labels[node].tolist() for node in list(traced.graph.nodes)[1:3])
        >>> first == relu
        True
    """

    def __init__(
        self,
        traced: fx.GraphModule,
        values: Mapping[fx.Node, Any],
        bounds: Mapping[fx.Node, Any],
        faults: Faults | None = None,
    ) -> None:
        super().__init__(traced, garbage_collect_values=False)
        self.extra_traceback = False  # an error is raised as it is
        self.faults = Faults() if faults is None else faults
        self.steps = Steps(traced)
        self.values = values
        self.bounds = bounds
        self.found = Channels()
        self.varying = after_inputs(traced)

    def follow(self) -> Channels:
        """The channels of all steps."""
        self.run(*(None for node in self.steps.traced.graph.nodes if node.op == "placeholder"))
        return self.found

    def run_node(self, n: fx.Node) -> Any:
        """The numbers of a step's output, from those of the steps before."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        try:
            found = self._follow(n, args, kwargs)
        except StepFailedError:  # it can't do with numbers in the place of values
            found = self._opaque(args, kwargs, self.values[n], n.name)
        except Exception as error:
            self.faults.note(error, label(n))
            found = self._opaque(args, kwargs, self.values[n], n.name)
        self.found.labels[n] = found
        return found

    @property
    def groups(self) -> Groups:
        """Which channels are the same."""
        return self.found.groups

    def _follow(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        name = self.steps.name(node)
        value = self.values[node]
        if name == "get_attr":
            return self._attribute(node, value)
        if name in SHAPES and args and is_numbers(args[0]) and self._counts(node, args[0]):
            return self._opaque(args, kwargs, value, node.name)
        if (name in SHAPES and not isinstance(value, Tensor)) or not labels_of((args, kwargs)):
            return self._pinned(value, "the input") if name == "placeholder" else self._pinned(value, node.name)
        if name in ("conv", "linear"):
            return self._weighted(node, name, args[0], value)
        if name == "batchnorm" or (name == "prelu" and node.op == "call_module"):
            return self._channelwise(args[0], value, node.name)
        if name in ACTIVATIONS and isinstance(value, Tensor) and len(given := labels_of((args, kwargs))) == 1:
            return given[0]
        if name in POOLS and isinstance(value, Tensor) and (name == "interpolate" or value.ndim == int(name[-2]) + 2):
            return (
                self._channelwise(args[0], value, node.name) if args else self._opaque(args, kwargs, value, node.name)
            )
        if name in REDUCTIONS:
            return self._reduced(node, args, kwargs, value)
        if name in MOVES:
            return self._moved(node, name, args, kwargs, value)
        if name == "index_add" and not kwargs and is_numbers(args[0]):
            return self._index_added(node, args, value)
        if name in PAIRS and name != "index_add" and not kwargs and len(args) == 2:
            return self._paired(node, name, args, value)
        return self._opaque(args, kwargs, value, "the network's output" if name == "output" else node.name)

    def _attribute(self, node: fx.Node, value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return None
        if value.numel() > _MOST or self.steps.is_shared(node):
            return self._pinned(value, node.name)
        return self.groups.new(value.numel()).view(value.shape)

    def _counts(self, node: fx.Node, numbers: Tensor) -> bool:
        """Whether the number of channels goes into a computation."""
        axis = along(self.groups.find_all(numbers))
        if axis is None:
            return False
        by_name = bool(node.kwargs)  # which size is asked for is not looked into then
        return by_name or is_computed_with(self.steps, self.values, node, axis.dim, numbers.ndim)

    def _index_added(self, node: fx.Node, args: Any, value: Any) -> Any:
        """Of an addition that was taken apart."""
        where, axis = node.args[2], along(self.groups.find_all(args[0]))
        if axis is None or axis.dim != args[1] or not isinstance(where, fx.Node) or where.op != "get_attr":
            return self._opaque(args, {}, value, node.name)
        self.groups.unite(args[0].index_select(args[1], self.steps.value(where).cpu()), args[3])
        return args[0]

    def _pinned(self, value: Any, reason: str) -> Any:
        """A number for everything, which stays."""
        number = self.groups.new(1)
        self.groups.pin(number, reason)
        return tree_map_only(Tensor, lambda t: number[0].expand(t.shape), value)

    def _opaque(self, args: Any, kwargs: Any, value: Any, reason: str) -> Any:
        for numbers in labels_of((args, kwargs)):
            self.groups.pin(numbers, reason)
        return self._pinned(value, reason)

    def _axis(self, numbers: Tensor, dim: int, reason: str) -> Tensor | None:
        """The numbers along a dimension, if that is the channel dimension; if not, they stay."""
        numbers = self.groups.find_all(numbers)
        first = numbers.movedim(dim, 0).reshape(numbers.shape[dim], -1)
        if bool((first == first[:, :1]).all()):
            return first[:, 0]
        self.groups.pin(numbers, reason)
        return None

    def _weighted(self, node: fx.Node, name: str, given: Tensor, value: Tensor) -> Any:
        module = self.steps.module(node)
        dim = 1 if name == "conv" else given.ndim - 1
        batched = name == "linear" or value.ndim == given.ndim == module.weight.ndim
        numbers = self._axis(given, dim, node.name) if batched else None
        groups = getattr(module, "groups", 1)
        if not batched or (numbers is None and groups > 1):
            return self._opaque((given,), {}, value, node.name)
        out = self.groups.new(value.shape[dim])
        if numbers is not None and groups > 1:  # the channels of one group go or stay together
            ins, outs = numbers.view(groups, -1), out.view(groups, -1)
            self.groups.unite(ins, ins[:, :1].expand_as(ins))
            self.groups.unite(outs, ins[:, :1].expand_as(outs))
        return spread(Axis(dim, out), value.shape)

    def _channelwise(self, given: Tensor, value: Tensor, reason: str) -> Any:
        numbers = self._axis(given, 1, reason) if given.ndim > 1 and given.ndim == value.ndim else None
        if numbers is None:
            return self._opaque((given,), {}, value, reason)
        return spread(Axis(1, numbers), value.shape)

    def _reduced(self, node: fx.Node, args: Any, kwargs: Any, value: Any) -> Any:
        axis = along(self.groups.find_all(args[0])) if args and isinstance(args[0], Tensor) else None
        dims = args[1] if len(args) > 1 else kwargs.get("dim")
        if axis is None or dims is None or not isinstance(value, Tensor):
            return self._opaque(args, kwargs, value, node.name)
        reduced = {d % args[0].ndim for d in ([dims] if isinstance(dims, int) else dims)}
        if axis.dim in reduced:
            return self._opaque(args, kwargs, value, node.name)
        keeps = value.ndim == args[0].ndim
        dim = axis.dim if keeps else axis.dim - sum(d < axis.dim for d in reduced)
        return spread(Axis(dim, axis.numbers), value.shape)

    def _moved(self, node: fx.Node, name: str, args: Any, kwargs: Any, value: Any) -> Any:
        if not isinstance(value, Tensor):  # split into parts
            return self._opaque(args, kwargs, value, node.name)
        if name == "pad":
            return self._padded(node, args, kwargs, value)
        before = [along(self.groups.find_all(numbers)) for numbers in labels_of((args, kwargs))]
        if name in ("narrow", "getitem", "view", "reshape", "expand") and names_places(name, node):
            return self._opaque(args, kwargs, value, node.name)
        whole = tree_map_only(Tensor, Tensor.contiguous, (args, kwargs))  # which a view needs
        moved = attempted(self.steps.function(node), *whole[0], **whole[1])
        if not isinstance(moved, Tensor) or moved.shape != value.shape:
            return self._opaque(args, kwargs, value, node.name)
        if name == "cat" and before[0] is not None and along(self.groups.find_all(moved)) is None:
            rows = moved.movedim(before[0].dim, 0).reshape(moved.shape[before[0].dim], -1)  # beside each other
            self.groups.unite(rows, rows[:, :1].expand_as(rows))
            moved = self.groups.find_all(moved)
        after = along(self.groups.find_all(moved))
        if after is None and any(axis is not None for axis in before):
            return self._opaque(args, kwargs, value, node.name)
        lengths = [len(axis.numbers) for axis in (*before, after) if axis is not None]
        if name == "getitem" and len(set(lengths)) > 1:  # some of the channels are picked by number
            return self._opaque(args, kwargs, value, node.name)
        if name in ("view", "reshape", "expand") and after is not None:
            self._tie(node, after)
            moved = self.groups.find_all(moved)
        return moved

    def _tie(self, node: fx.Node, axis: Axis) -> None:
        """Where the number of channels is given by the size of another tensor, these channels go together."""
        told = size_given_by(self.steps, node, axis.dim)
        if told is None:
            return
        source, dim = told
        other = self.found.axis(source)
        if other is not None and other.dim == dim and len(other.numbers) == len(axis.numbers):
            self.groups.unite(other.numbers, axis.numbers)
        else:
            self.groups.pin(axis.numbers, node.name)

    def _padded(self, node: fx.Node, args: Any, kwargs: Any, value: Tensor) -> Any:
        axis = along(self.groups.find_all(args[0])) if args else None
        amounts = args[1] if len(args) > 1 else kwargs.get("pad")
        if axis is None or not isinstance(amounts, (tuple, list)):
            return self._opaque(args, kwargs, value, node.name)
        before, after = pad_along(amounts, args[0].ndim, axis.dim)
        mode = args[2] if len(args) > 2 else kwargs.get("mode", "constant")
        if min(before, after) < 0 or (mode != "constant" and (before or after)):
            return self._opaque(args, kwargs, value, node.name)
        new = [self.groups.new(count) for count in (before, after)]
        return spread(Axis(axis.dim, torch.cat([new[0], axis.numbers, new[1]])), value.shape)

    def _paired(self, node: fx.Node, name: str, args: Any, value: Any) -> Any:
        both = [a for a in args if isinstance(a, Tensor)]
        if len(both) < 2:
            alone = bool(both) and isinstance(value, Tensor) and both[0].shape == value.shape
            return both[0] if alone else self._opaque(args, {}, value, node.name)
        for big, small in (both, both[::-1]):
            axis = along(self.groups.find_all(big))
            if (
                axis is not None
                and big.shape == value.shape
                and len(axis.numbers) > size_at(small, axis.dim - big.ndim)
            ):
                self.groups.pin(small, node.name)  # it serves all channels
                return big
        first, second = broadcast(*both)
        apart = torch.zeros(first.shape, dtype=torch.bool)
        lead = first
        if name == "add" and both[0].shape == both[1].shape:
            found = part_of_sum(node, self.found, self.bounds, self.varying)
            if found is not None:
                part, channels = found
                self.found.apart[node] = (part,)
                apart = spread(channels, first.shape)
                lead = second if part is node.args[0] else first
        self.groups.unite(first[~apart], second[~apart])
        return lead.contiguous()
