"""What data and language models must agree on: ids, lengths, padding. It is checked before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class TokenFormat:
    """What the tokens of a data module, or of a network, are like; each has it as its attribute ``tokens``.

    Attributes:
        vocabulary_size: Ids are below.
        max_length: Tokens of the longest sequence; ``None``: any number.
        pad_id: The id that stands for padding; ``None``: a network needs none, since it goes by the mask.
    """

    vocabulary_size: int
    max_length: int | None = None
    pad_id: int | None = None


def check_format(given: TokenFormat, taken: TokenFormat) -> None:
    """Check that a network takes the tokens of a data module.

    Args:
        given: Of the data.
        taken: Of the network.

    Raises:
        ValueError: If there are more ids, or longer sequences, than the network knows, or it pads by another id.

    Example:
        >>> check_format(TokenFormat(8000), TokenFormat(100))
        Traceback (most recent call last):
        ValueError: the tokenizer has 8000 tokens, but the network embeds 100: use the network's own...
    """
    if given.vocabulary_size > taken.vocabulary_size:
        raise ValueError(
            f"the tokenizer has {given.vocabulary_size} tokens, but the network embeds {taken.vocabulary_size}: use "
            f"the network's own tokenizer (tokenizer=FOLDER), or a new one (vocabulary_size={given.vocabulary_size})"
        )
    if given.max_length is not None and taken.max_length is not None and given.max_length > taken.max_length:
        raise ValueError(
            f"sentences have up to max_length={given.max_length} tokens, but the network has positions for "
            f"{taken.max_length}: use max_length={taken.max_length}"
        )
    if taken.pad_id is not None and given.pad_id != taken.pad_id:
        raise ValueError(
            f"the data pad with id {given.pad_id}, but the network takes id {taken.pad_id} for padding: use the "
            f"network's own tokenizer (tokenizer=FOLDER), or a new one (model.pad_token_id={given.pad_id})"
        )


def check_tokens(inputs: Any, taken: TokenFormat | None = None) -> None:
    """Check the inputs of a language model; other inputs are nobody's business here.

    Args:
        inputs: A mapping with ``"input_ids"`` (N, T), and perhaps ``"attention_mask"`` of the same shape.
        taken: What the network takes, if it says so.

    Raises:
        ValueError: If an id has no embedding, the mask has another shape, or a row is padding alone.

    Example:
        >>> import torch
        >>> ids = torch.tensor([[5, 6], [0, 0]])
        >>> check_tokens({"input_ids": ids, "attention_mask": (ids > 0).long()})
        Traceback (most recent call last):
        ValueError: row 1 of attention_mask is padding alone: leave empty sentences out of the data
    """
    ids = inputs.get("input_ids") if isinstance(inputs, Mapping) else None
    if not isinstance(ids, Tensor) or not ids.numel():
        return
    if taken is not None and not 0 <= int(ids.min()) <= int(ids.max()) < taken.vocabulary_size:
        raise ValueError(
            f"input_ids are {int(ids.min())} to {int(ids.max())}, but the network embeds 0 to "
            f"{taken.vocabulary_size - 1}: use the tokenizer of that network, or a network with more embeddings"
        )
    mask = inputs.get("attention_mask")
    if not isinstance(mask, Tensor):
        return
    if mask.shape[:1] != ids.shape[:1] or mask.shape[-1:] != ids.shape[-1:]:
        raise ValueError(
            f"attention_mask has shape {tuple(mask.shape)} and input_ids {tuple(ids.shape)}: give one value a token"
        )
    empty = ~mask.flatten(1).any(1)
    if bool(empty.any()):
        raise ValueError(
            f"row {int(empty.nonzero()[0])} of attention_mask is padding alone: leave empty sentences out of the data"
        )
