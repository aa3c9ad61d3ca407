"""Sentences as token ids: sequences of their own length, and batches that are padded to the longest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from reflow_lightning.experiments.data.sentences import Sentences
from reflow_lightning.experiments.data.tokenizing import SentenceTokenizer


class TokenBatch(TypedDict):
    """What a language model is called with, by keyword.

    Attributes:
        input_ids: Token ids, shape (N, T).
        attention_mask: 1 for a token, 0 for padding, shape (N, T).
    """

    input_ids: Tensor
    attention_mask: Tensor


def pad_batch(samples: Sequence[tuple[Tensor, Tensor]], pad_id: int) -> tuple[TokenBatch, Tensor]:
    """Pad sequences to the longest of them.

    Args:
        samples: Ids of shape (T,) and the class of each, of shape ().
        pad_id: The id that fills up.

    Returns:
        The inputs and the classes (N,).

    Example:
        >>> good, bad = (torch.tensor([5, 6]), torch.tensor(1)), (torch.tensor([7]), torch.tensor(0))
        >>> inputs, classes = pad_batch([good, bad], pad_id=0)
        >>> inputs["input_ids"].tolist(), inputs["attention_mask"].tolist(), classes.tolist()
        ([[5, 6], [7, 0]], [[1, 1], [1, 0]], [1, 0])
    """
    ids = [sample[0] for sample in samples]
    lengths = torch.tensor([len(sequence) for sequence in ids])
    input_ids = pad_sequence(ids, batch_first=True, padding_value=pad_id)
    mask = (torch.arange(input_ids.shape[1]) < lengths[:, None]).long()
    return {"input_ids": input_ids, "attention_mask": mask}, torch.stack([sample[1] for sample in samples])


class TokenSequences(Dataset[tuple[Tensor, Tensor]]):
    """Token ids (T,) and class () of each sentence; in training with word dropout.

    Word dropout (Iyyer et al. 2015) replaces each token by the one for unknown words with some probability, so that a
    network learns to do without any one of them.

    Args:
        sentences: What is encoded.
        tokenizer: What it is encoded by.
        max_length: Sequences are cut after so many tokens.
        word_dropout: The probability; 0 for none.

    Raises:
        ValueError: If a sentence has no token, or the tokenizer has none for unknown words, which word dropout needs.
    """

    def __init__(
        self, sentences: Sentences, tokenizer: SentenceTokenizer, max_length: int, word_dropout: float = 0.0
    ) -> None:
        self.ids = [torch.tensor(ids) for ids in tokenizer.encode(sentences, max_length)]
        self.classes = sentences.classes
        self.word_dropout = word_dropout
        self.kept = torch.tensor(tokenizer.special_ids)
        if word_dropout and tokenizer.unknown_id is None:
            raise ValueError(
                f"word_dropout={word_dropout}, but the tokenizer has no token for unknown words: use word_dropout=0"
            )
        self.unknown_id = tokenizer.unknown_id

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        ids = self.ids[index]
        if self.word_dropout:
            dropped = (torch.rand(len(ids)) < self.word_dropout) & ~torch.isin(ids, self.kept)
            assert self.unknown_id is not None
            ids = ids.masked_fill(dropped, self.unknown_id)
        return ids, self.classes[index]
