"""Which rows of a batch a tensor holds, as the functions tell that have picked them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from reflow_lightning.running.compat.torch import FunctionMode, tree_leaves
from reflow_lightning.running.hooks import Call

_PICKS = frozenset(
    ("__getitem__", "index_select", "masked_select", "gather", "take", "take_along_dim", "narrow", "select", "roll")
).union(("split", "split_with_sizes", "tensor_split", "chunk", "unbind", "repeat_interleave"))
_ALONG_CHANNELS = frozenset(("gather", "take_along_dim"))
_PUT_BACK = frozenset(("index_add", "index_copy", "index_put", "index_fill", "index_reduce")).union(
    ("scatter", "scatter_add", "scatter_reduce", "masked_scatter", "masked_fill")
)
_FACTORS = (0x9E3779B97F4A7C15 - (1 << 64), 0x3C6EF372FE94F82B, 0x1B873593CC9E2D51)


class RowsWatch(FunctionMode):
    """Tells whether a layer gets the same rows in two networks, while both run on the same batch.

    A mixture of experts, the box head of a detector or an early exit hands on rows that its values have chosen, which
    are others in a pruned network, though there may be as many. Each tensor that was picked by an index, a mask or
    sizes, or was made of one, has a number that stands for all that was picked on its way. Two networks of one kind
    give a layer the same rows if the numbers are equal. What writes rows back to their places ends the way; what writes
    them to places that were picked themselves does not.

    What a scripted module or an extension does within is not seen. A number may differ though the rows are the same,
    as where a sorted order is undone by another index.

    Args:
        model: The network. What is picked of its parameters and buffers, such as codes of a book, are no rows.

    Example:
        >>> x, rows = torch.tensor([[1.0], [-2.0], [3.0]]), RowsWatch(nn.Identity())
        >>> with rows:
        ...     some, others = 2 * x[x[:, 0] > 0], 2 * x[x[:, 0] < 3]
        >>> len(some) == len(others), rows.of(some) == rows.of(others), rows.of(x)
        (True, False, 0)
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._numbers: Any = WeakTensorKeyDictionary()
        self._constants = set(map(id, chain(model.parameters(), model.buffers())))

    def of(self, values: Any) -> int:
        """The number of a tensor; 0 if nothing was picked on its way."""
        return int(self._numbers.get(values, 0)) if isinstance(values, Tensor) else 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        outputs = [out] if isinstance(out, Tensor) else list(out) if isinstance(out, (tuple, list)) else []
        if name in _PICKS and self._is_of_rows(name, args, kwargs):
            picked = (self.of(args[0]), name, _told(args[1:]), _told(tuple(sorted(kwargs.items()))))
            for place, output in enumerate(outputs):
                if isinstance(output, Tensor):
                    self._numbers[output] = hash((*picked, place)) or 1
        elif self._numbers:
            puts_back = name == "__setitem__" or name.rstrip("_") in _PUT_BACK
            sources = list(tensors_in((*args, *kwargs.values())))
            if puts_back:  # of what is written, the places count that it is written to
                sources = [*sources[:1], *(index for index in sources[1:] if not index.is_floating_point())]
            if number := self._joined(sources):
                for output in tensors_in(args[:1] if name == "__setitem__" else outputs):
                    self._numbers[output] = number
        return out

    def _is_of_rows(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Whether activations are picked, and not parameters, indices, or values out of each row."""
        source = args[0] if args else None
        is_activation = isinstance(source, Tensor) and source.is_floating_point() and id(source) not in self._constants
        return is_activation and not (name in _ALONG_CHANNELS and _is_last(args, kwargs))

    def _joined(self, sources: Iterable[Tensor]) -> int:
        numbers = {number for source in sources if (number := self.of(source))}
        return numbers.pop() if len(numbers) == 1 else hash(tuple(sorted(numbers))) if numbers else 0


def are_paired(own: Sequence[Call], watch: RowsWatch, others: Sequence[Call], of_others: RowsWatch) -> bool:
    """Whether calls of a layer in two networks got the same rows, as far as their number and what picked them tell."""
    return len(own) == len(others) and all(
        (one.shape, watch.of(one)) == (other.shape, of_others.of(other))
        for call, other_call in zip(own, others, strict=True)
        for one, other in zip(_leaves(call), _leaves(other_call), strict=True)
    )


def _leaves(call: Call) -> list[Tensor]:
    return [values for values in tree_leaves(call.output) if isinstance(values, Tensor)]


def _is_last(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether each row keeps its place, since what is picked stands in the last dimension."""
    place = 1 if len(args) > 1 and isinstance(args[1], int) else 2  # gather has it before the index
    dim = kwargs.get("dim", args[place] if len(args) > place else None)
    return dim is not None and dim % args[0].ndim == args[0].ndim - 1 and args[0].ndim > 1


def _told(values: Any) -> Any:
    """Arguments as something to compare by."""
    if isinstance(values, Tensor):
        return (tuple(values.shape), _fingerprint(values))
    if isinstance(values, (tuple, list)):
        return tuple(map(_told, values))
    if isinstance(values, slice):
        return ("slice", _told(values.start), _told(values.stop), _told(values.step))
    return repr(values)


def _fingerprint(index: Tensor) -> int:
    """A number that other values, or the same in another order, hardly ever give."""
    values = index.detach().flatten().to(torch.int64)
    mixed = values * _FACTORS[0] + torch.arange(1, len(values) + 1, device=values.device) * _FACTORS[1]
    return int(((mixed ^ (mixed >> 31)) * _FACTORS[2]).sum())


def tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors of nested tuples and lists, one after the other."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from tensors_in(value)
