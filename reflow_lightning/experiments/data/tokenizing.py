"""Tokenizers of the library ``tokenizers``: built on training sentences, or read from the folder of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reflow_lightning.experiments.data.sentences import Sentences
from reflow_lightning.running.describing import first_line

PAD, UNKNOWN, CLASS = "[PAD]", "[UNK]", "[CLS]"
"""Fill up a batch, stand for a word that is not in the vocabulary, and come before each sentence."""

KINDS = ("words", "bpe")


@dataclass(frozen=True)
class SentenceTokenizer:
    """A tokenizer and the ids of its special tokens.

    Attributes:
        tokenizer: A ``tokenizers.Tokenizer``.
        pad_id: Fills up a batch.
        unknown_id: Stands for words that are not in the vocabulary; ``None`` if there is none.
        truncation_side: Where long sentences are cut, ``"right"`` or ``"left"``.
    """

    tokenizer: Any
    pad_id: int
    unknown_id: int | None
    truncation_side: str = "right"

    @property
    def size(self) -> int:
        """The number of ids: one more than the largest."""
        ids: dict[str, int] = self.tokenizer.get_vocab()
        return 1 + max(ids.values())

    @property
    def special_ids(self) -> list[int]:
        """The ids of special tokens, such as `PAD`."""
        added = self.tokenizer.get_added_tokens_decoder().items()
        return [index for index, token in added if token.special]

    def encode(self, sentences: Sentences, max_length: int) -> list[list[int]]:
        """Encode sentences.

        Args:
            sentences: What is encoded.
            max_length: Longer ones are cut; special tokens count, too.

        Returns:
            The ids of each.

        Raises:
            ValueError: If one has no token but special ones, or ``max_length`` leaves room for none.
        """
        special = self.tokenizer.num_special_tokens_to_add(is_pair=False)
        if max_length <= special:
            raise ValueError(
                f"max_length={max_length} leaves no room beside {special} special tokens: use a larger one"
            )
        self.tokenizer.no_padding()  # a tokenizer that was read may fill up itself, and tell nobody
        self.tokenizer.enable_truncation(max_length, direction=self.truncation_side)
        encodings = self.tokenizer.encode_batch(sentences.texts)
        for encoding, text, place in zip(encodings, sentences.texts, sentences.places, strict=True):
            if all(encoding.special_tokens_mask):
                raise ValueError(
                    f"{place}: the tokenizer makes no token of {text[:60]!r}: remove the line, or use another tokenizer"
                )
        return [encoding.ids for encoding in encodings]


def make_tokenizer(
    tokenizer: str | Path, texts: Sequence[str], vocabulary_size: int, pad_token: str | None = None
) -> SentenceTokenizer:
    """Build a tokenizer on sentences, or read one.

    Args:
        tokenizer: One of `KINDS`; or a folder of ``transformers``, or a name that its hub knows.
        texts: What a new one is built on: training sentences alone.
        vocabulary_size: A new one has so many tokens at most.
        pad_token: See `read_tokenizer`.
    """
    if tokenizer in KINDS:
        return build_tokenizer(str(tokenizer), texts, vocabulary_size)
    return read_tokenizer(tokenizer, pad_token)


def build_tokenizer(kind: str, texts: Sequence[str], vocabulary_size: int) -> SentenceTokenizer:
    """Build a tokenizer on sentences; the same sentences always give the same one.

    Text is in lower case, without accents, and split at white space and punctuation.

    Args:
        kind: ``"words"``: the most frequent words; ``"bpe"``: parts of words, by byte-pair encoding (arXiv 1508.07909).
        texts: The sentences.
        vocabulary_size: Number of tokens at most, special ones included.

    Raises:
        ValueError: If the vocabulary has no room for a word, or not for all letters.

    Example:
        >>> tokenizer = build_tokenizer("words", ["a good film", "a film"], 5).tokenizer
        >>> tokenizer.encode("A GOOD film!").tokens
        ['[CLS]', 'a', '[UNK]', 'film', '[UNK]']
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    special = [PAD, UNKNOWN, CLASS]
    if vocabulary_size <= len(special):
        raise ValueError(f"vocabulary_size={vocabulary_size} leaves no room beside {', '.join(special)}: use thousands")
    model: Any = models.WordLevel(unk_token=UNKNOWN) if kind == "words" else models.BPE(unk_token=UNKNOWN)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    words = pre_tokenizers.BertPreTokenizer()
    # Words begin with a mark; a mark on all other parts would make the order of ids random.
    marked = pre_tokenizers.Sequence([words, pre_tokenizers.Metaspace()])
    tokenizer.pre_tokenizer = words if kind == "words" else marked
    trainer = tokenizer.model.get_trainer()
    trainer.vocab_size, trainer.special_tokens, trainer.show_progress = vocabulary_size, special, False
    tokenizer.train_from_iterator(texts, trainer)
    if (least := tokenizer.get_vocab_size()) > vocabulary_size:
        raise ValueError(f"vocabulary_size={vocabulary_size} leaves no room for all letters: use {least} or more")
    tokenizer.encode_special_tokens = True  # "[PAD]" within a sentence is text
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{CLASS} $A", special_tokens=[(CLASS, special.index(CLASS))]
    )
    return SentenceTokenizer(tokenizer, special.index(PAD), special.index(UNKNOWN))


def read_tokenizer(source: str | Path, pad_token: str | None = None) -> SentenceTokenizer:
    """Read the tokenizer of a pretrained model.

    Args:
        source: A folder of ``transformers``, or a name that its hub knows.
        pad_token: Fills up batches. ``None``: the tokenizer says which.

    Raises:
        FileNotFoundError: If there is no tokenizer.
        ValueError: If it has no such token, or none to pad with.
    """
    from transformers import AutoTokenizer

    try:
        found = AutoTokenizer.from_pretrained(source)
    except Exception as error:  # one of many kinds, of the hub, the file system or the parser
        raise FileNotFoundError(
            f"tokenizer={source} is no folder with a tokenizer, and the hub of transformers gave none either "
            f"({first_line(error)}): name a folder that holds tokenizer.json, or use one of {', '.join(KINDS)}"
        ) from error
    backend = getattr(found, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(
            f"the {type(found).__name__} in {source} is not of the library tokenizers: use a network whose tokenizer "
            f"has a tokenizer.json, or one of tokenizer={'|'.join(KINDS)}"
        )
    pad = pad_token or found.pad_token
    if pad is None:
        raise ValueError(
            f"the tokenizer in {source} has no pad token, so that sentences can't be padded to one length: name one of "
            f"its tokens, such as data.pad_token={found.eos_token or found.unk_token!r}"
        )
    if (pad_id := backend.token_to_id(pad)) is None:
        raise ValueError(f"pad_token={pad!r} is no token of the tokenizer in {source}: name one that it has")
    return SentenceTokenizer(backend, pad_id, found.unk_token_id, found.truncation_side)
