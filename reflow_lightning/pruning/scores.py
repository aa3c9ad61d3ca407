"""The scores of one tensor as sort keys, produced piece by piece: what is pruned already goes first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from reflow_lightning.pruning.criteria.chunks import flat_chunks
from reflow_lightning.pruning.criteria.protocols import Criterion, StreamedCriterion, is_unsigned
from reflow_lightning.pruning.criteria.scoring import checked_pieces, scores_of
from reflow_lightning.running.processes import summed
from reflow_lightning.running.shards import Part, part_like, whole_of


def _bits(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values.to(dtype).view(torch.int32 if dtype == torch.float32 else torch.int64)


def sort_keys(scores: Tensor, dtype: torch.dtype) -> Tensor:
    """Integers that order like the scores.

    Args:
        scores: Floating-point scores of any type that ``dtype`` holds exactly.
        dtype: ``torch.float32`` or ``torch.float64``.

    Example:
        >>> keys = sort_keys(torch.tensor([-1.0, -0.0, 0.0, 2.0]), torch.float32)
        >>> bool(keys[0] < keys[1] == keys[2] < keys[3])
        True
    """
    bits = _bits(scores + 0.0, dtype)  # -0.0 + 0.0 is 0.0
    largest = torch.iinfo(bits.dtype).max
    return bits ^ ((bits >> (bits.element_size() * 8 - 1)) & largest)  # a negative float grows as its bits shrink


@dataclass(frozen=True)
class Scores:
    """The scores of one tensor.

    Ranked below all scores is what was pruned before, and below that what must not stay at all; above all what must.

    Attributes:
        name: Name of the parameter.
        weight: Its values, as far as they are held here.
        criterion: Maps them to scores.
        pruned_before: Makes a bool tensor of the weight's shape, True where it was pruned before; only when asked, as
            masks are kept as bits, and the bools of all layers at once may not fit. ``None``: where it is zero.
        outside: Bool tensor of the weight's shape, True where an N:M pattern forbids a weight. ``None``: nowhere.
        needed: Bool tensor of the weight's shape, True where a weight stays in any case. ``None``: nowhere.
        part: Where the values lie in a parameter that is spread over processes. ``None``: they are all of it.
    """

    name: str
    weight: Tensor
    criterion: Criterion
    pruned_before: Callable[[], Tensor] | None = None
    outside: Tensor | None = None
    needed: Tensor | None = None
    part: Part | None = None

    def without(self, outside: Tensor) -> Scores:
        """The same scores, where some weights must not stay."""
        return self._marked(replace(self, outside=outside))

    def with_needed(self, choose: Callable[[Tensor], Tensor]) -> Scores:
        """The same scores, where some weights must stay, which a function chooses of all keys."""
        keys = list(self.keys(self.dtype))
        if not self.weight.numel():
            return self
        return self._marked(replace(self, needed=choose(torch.cat(keys).view(self.weight.shape))))

    def _marked(self, marked: Scores) -> Scores:
        if "tensor" in vars(self):  # computed once, here too
            vars(marked)["tensor"] = self.tensor
        return marked

    @property
    def whole(self) -> Part:
        """The place of the values in the parameter."""
        return self.part or Part(self.weight, self.weight.shape)

    @property
    def pruned(self) -> Tensor | None:
        """Where a weight was pruned before, made anew each time; ``None``: where it is zero."""
        return None if self.pruned_before is None else self.pruned_before()

    @property
    def shape(self) -> torch.Size:
        """Shape of the parameter, on all processes together."""
        return self.whole.shape

    @property
    def size(self) -> int:
        """Number of weights of the parameter, on all processes together."""
        return self.shape.numel()

    @cached_property
    def most(self) -> int:
        """The largest number of weights that may stay, on all processes together."""
        return self.size if self.outside is None else self.size - self._count(self.outside)

    @cached_property
    def left(self) -> int:
        """Number of weights that earlier prunings and the pattern leave, on all processes together."""
        pruned = self.pruned
        if pruned is None:
            return self.most
        return self.size - self._count(pruned if self.outside is None else pruned | self.outside)

    def _count(self, marks: Tensor) -> int:
        return int(summed(marks.count_nonzero(), self.whole.group))

    @property
    def dtype(self) -> torch.dtype:
        """The narrowest of float32 and float64 that holds every score exactly."""
        wide = (self.weight if isinstance(self.criterion, StreamedCriterion) else self.tensor).dtype == torch.float64
        return torch.float64 if wide else torch.float32

    @cached_property
    def tensor(self) -> Tensor:
        """All scores at once, of the weight's shape; computed once, since a function may be slow or draw at random.

        Raises:
            ValueError: If the criterion returns another shape, or a score that is not finite.
        """
        here = part_like(self.whole, self.of_whole)
        return here if self.whole.group is None else here.clone()  # a view would keep the scores of all processes

    @property
    def of_whole(self) -> Tensor:
        """The scores of the whole parameter; where it is spread over processes, all of them must ask, and gather it."""
        return scores_of(self.criterion, self.name, whole_of(self.whole))

    def keys(self, dtype: torch.dtype) -> Iterator[Tensor]:
        """Flat pieces, in position order, of integers that order like the scores in ``dtype`` (see `sort_keys`)."""
        if isinstance(self.criterion, StreamedCriterion):
            like = flat_chunks(torch.empty_strided(self.weight.shape, self.weight.stride(), device="meta"))
            pieces = self.criterion.pieces(self.name, self.weight, self.whole.start)
            pieces = checked_pieces(self.criterion, self.name, pieces, like)
        else:
            pieces = flat_chunks(self.tensor.contiguous())
        unsigned = is_unsigned(self.criterion)  # then the bits order as they are, which saves three passes
        keys = (_bits(piece, dtype) if unsigned else sort_keys(piece, dtype) for piece in pieces)
        if (
            unsigned and self.pruned_before is None and self.outside is None and self.needed is None
        ):  # a zero weight has the lowest score already
            yield from keys
        else:
            yield from self._with_levels(keys)

    def _with_levels(self, pieces: Iterator[Tensor]) -> Iterator[Tensor]:
        weights = flat_chunks(self.weight)
        pruned = None if self.pruned_before is None else self.pruned_before().reshape(-1)
        outside = None if self.outside is None else self.outside.reshape(-1)
        needed = None if self.needed is None else self.needed.reshape(-1)
        start = 0
        for keys in pieces:
            part = slice(start, start + keys.numel())
            lowest = torch.iinfo(keys.dtype).min
            marked = next(weights) == 0 if pruned is None else pruned[part]
            keys = keys.masked_fill(marked, lowest + 1)  # every finite score has a higher key
            if outside is not None:
                keys.masked_fill_(outside[part], lowest)
            if needed is not None:
                keys.masked_fill_(needed[part], torch.iinfo(keys.dtype).max)
            yield keys
            start = part.stop
