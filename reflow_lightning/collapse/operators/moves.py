"""Steps that place values elsewhere, or repeat them, or put constants beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from reflow_lightning.collapse.facts.following import Following
from reflow_lightning.collapse.facts.groups import Axis, labels_of, spread
from reflow_lightning.collapse.facts.operator import Operator
from reflow_lightning.collapse.facts.removal import Shrinking
from reflow_lightning.collapse.facts.step import Step
from reflow_lightning.collapse.graph.kind import words
from reflow_lightning.collapse.graph.sizes import names_places, pad_along, size_given_by
from reflow_lightning.running.compat.torch import tree_map_only


class Move(Operator):
    """What moves values moves the numbers of their channels alike."""

    functions: Mapping[str, str] = {
        **words("flatten permute transpose swapaxes movedim contiguous squeeze unsqueeze getitem narrow chunk split"),
        **words("unbind cat stack clone flip t detach"),
        **dict.fromkeys(["concat", "concatenate"], "cat"),
        "swapdims": "swapaxes",
    }
    modules: Mapping[str, str] = {"Flatten": "flatten"}
    moves: bool = True
    views: frozenset[str] = frozenset(functions.values()) - {"cat", "stack", "clone", "flip"}

    def bounds(self, step: Step) -> Any:
        """See `Operator`."""
        return step.rising()

    def channels(self, step: Step, follow: Following) -> Any:
        """See `Operator`."""
        moved = self._moved(step, follow)
        return follow.opaque(step, step.node.name) if moved is None else moved

    def _moved(self, step: Step, follow: Following) -> Tensor | None:
        """The numbers, if there is still one dimension along which they vary."""
        name, groups = step.name, follow.groups
        if not isinstance(step.value, Tensor) or self.is_fixed(step):  # split into parts, or picked by number
            return None
        before = [follow.along(numbers) for numbers in labels_of((step.args, step.kwargs))]
        whole = tree_map_only(Tensor, Tensor.contiguous, (step.args, step.kwargs))  # which a view needs
        moved = step.run(*whole[0], **whole[1])
        if not isinstance(moved, Tensor) or moved.shape != step.value.shape:
            return None
        if name == "cat" and before[0] is not None and follow.along(moved) is None:
            rows = moved.movedim(before[0].dim, 0).reshape(moved.shape[before[0].dim], -1)  # beside each other
            groups.unite(rows, rows[:, :1].expand_as(rows))
            moved = groups.find_all(moved)
        after = follow.along(moved)
        if after is None and any(axis is not None for axis in before):
            return None
        lengths = {len(axis.numbers) for axis in (*before, after) if axis is not None}
        if name == "getitem" and len(lengths) > 1:  # some of the channels are picked by number
            return None
        return moved

    def is_fixed(self, step: Step) -> bool:
        """Whether a step picks values by their numbers, or names sizes that no other step would correct."""
        return step.name in ("narrow", "getitem") and names_places(step.name, step.node)


class View(Move):
    """Steps that name sizes."""

    functions: Mapping[str, str] = words("view reshape expand")
    modules: Mapping[str, str] = {}
    views: frozenset[str] = frozenset(functions)

    def is_fixed(self, step: Step) -> bool:
        """See `Move`."""
        return names_places(step.name, step.node)

    def _moved(self, step: Step, follow: Following) -> Tensor | None:
        moved = super()._moved(step, follow)
        if moved is None or (axis := follow.along(moved)) is None:
            return moved
        self._tie(step, axis, follow)
        return follow.groups.find_all(moved)

    def _tie(self, step: Step, axis: Axis, follow: Following) -> None:
        """Where the number of channels is given by the size of another tensor, these channels go together."""
        told = size_given_by(step.steps, step.node, axis.dim)
        if told is None:
            return
        source, dim = told
        other = follow.found.axis(source)
        if other is not None and other.dim == dim and len(other.numbers) == len(axis.numbers):
            follow.groups.unite(other.numbers, axis.numbers)
        else:
            follow.groups.pin(axis.numbers, step.node.name)

    def shrink(self, node: fx.Node, shrinking: Shrinking) -> None:
        """Correct a size that is written into the graph."""
        stays, axis = shrinking.stays(node), shrinking.axes[node]
        if stays is None or axis is None:
            return
        first, sizes = node.args[0], node.args[1:]
        nested = len(sizes) == 1 and isinstance(sizes[0], (tuple, list))
        given: Any = sizes[0] if nested else sizes
        flat = list(given)
        if axis.dim < len(flat) and isinstance(flat[axis.dim], int) and flat[axis.dim] == len(stays):
            flat[axis.dim] = int(stays.sum())
            node.args = (first, tuple(flat)) if nested else (first, *flat)


class Pad(Move):
    """Constants, or copies, beside the values: in the channel dimension they are channels too."""

    functions: Mapping[str, str] = words("pad")
    modules: Mapping[str, str] = {}
    views: frozenset[str] = frozenset()

    def _moved(self, step: Step, follow: Following) -> Tensor | None:
        axis, amounts = follow.along(step.first), step.argument(1, "pad")
        if axis is None or not isinstance(amounts, (tuple, list)) or not isinstance(step.value, Tensor):
            return None
        before, after = pad_along(amounts, step.first.ndim, axis.dim)
        mode = step.argument(2, "mode", "constant")
        if min(before, after) < 0 or (mode != "constant" and (before or after)):
            return None
        new = [follow.groups.new(count) for count in (before, after)]
        return spread(Axis(axis.dim, torch.cat([new[0], axis.numbers, new[1]])), step.value.shape)

    def shrink(self, node: fx.Node, shrinking: Shrinking) -> None:
        """Correct how many channels are added."""
        stays, axis, given = shrinking.stays(node), shrinking.axes[node], shrinking.axes[shrinking.inputs[node][0]]
        if stays is None or axis is None:
            return
        given_amounts: Any = node.args[1] if len(node.args) > 1 else node.kwargs["pad"]
        amounts = list(given_amounts)
        ndim = node.meta["ndim"]
        before, _ = pad_along(amounts, ndim, axis.dim)
        start = 2 * (ndim - 1 - axis.dim)
        if start + 1 >= len(amounts) or given is None:
            return
        amounts[start] = int(stays[:before].sum())
        amounts[start + 1] = int(stays[before + len(given.numbers) :].sum())
        if len(node.args) > 1:
            node.args = (node.args[0], tuple(amounts), *node.args[2:])
        else:
            node.kwargs = {**node.kwargs, "pad": tuple(amounts)}
