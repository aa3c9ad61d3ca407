"""What a criterion gives for a weight, checked: whole, or piece by piece."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeGuard

import torch
from torch import Tensor

from reflow_lightning.pruning.criteria.protocols import Criterion
from reflow_lightning.running.describing import shown


def scores_of(criterion: Criterion, name: str, weight: Tensor) -> Tensor:
    """The scores of a weight.

    Raises:
        TypeError: If the criterion can't be called with a name and a weight.
        ValueError: If the scores are no floating-point tensor of the weight's shape, or not all are finite.

    Example:
        >>> scores_of(lambda name, weight: None, "w", torch.ones(2))
        Traceback (most recent call last):
        ValueError: criterion <lambda> gave NoneType for 'w': it must return one floating-point score a weight...
    """
    try:
        scores: object = criterion(name, weight)
    except TypeError as error:
        if error.__traceback__ is not None and error.__traceback__.tb_next is not None:  # raised within the criterion
            raise
        raise TypeError(
            f"criterion {shown(criterion)} can't be called as criterion(name, weight), with a parameter's name and "
            f"values ({error}): let it take these two"
        ) from None
    if not _are_scores(scores, weight.shape):
        raise ValueError(
            f"criterion {shown(criterion)} gave {_what(scores)} for '{name}': "
            f"it must return one floating-point score a weight, shape {tuple(weight.shape)}"
        )
    if not torch.isfinite(scores).all():
        raise ValueError(
            f"criterion {shown(criterion)} gave NaN or infinite scores for '{name}': it must return finite ones"
        )
    return scores


def checked_pieces(criterion: object, name: str, pieces: Iterable[Tensor], like: Iterable[Tensor]) -> Iterator[Tensor]:
    """The pieces that a criterion gives; see `StreamedCriterion`.

    Args:
        criterion: The criterion, for messages.
        name: Name of the weight.
        pieces: Its pieces.
        like: Tensors of the shapes that they must have.

    Raises:
        ValueError: If one has not, or is no floating-point tensor.

    Example:
        >>> list(checked_pieces("mine", "w", [], like=[torch.ones(2)]))
        Traceback (most recent call last):
        ValueError: criterion 'mine' gave a piece NoneType for 'w': it must give floating-point scores that are ...
    """
    given = iter(pieces)
    for own in like:
        piece: object = next(given, None)
        if not _are_scores(piece, own.shape):
            raise ValueError(
                f"criterion {shown(criterion)} gave a piece {_what(piece)} for '{name}': it must give floating-point "
                f"scores that are split like flat_chunks, here {tuple(own.shape)}"
            )
        yield piece


def _are_scores(value: object, shape: torch.Size) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.shape == shape and value.is_floating_point()


def _what(value: object) -> str:
    return f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
