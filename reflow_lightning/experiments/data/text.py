"""What the data modules of sentences share: their files, a tokenizer built on the training split, padded batches."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar

from reflow_lightning.experiments.data.downloads import download_files
from reflow_lightning.experiments.data.sentences import Sentences, find_folder, read_sentences
from reflow_lightning.experiments.data.splits import SplitDataModule
from reflow_lightning.experiments.data.tokenizing import SentenceTokenizer, make_tokenizer
from reflow_lightning.experiments.data.tokens import TokenSequences, pad_batch
from reflow_lightning.experiments.token_format import TokenFormat


class TextDataModule(SplitDataModule):
    """Batches ``({"input_ids": (N, T), "attention_mask": (N, T)}, classes (N,))`` of sentences.

    Args:
        folder: Holds the folder ``dataset``, itself or in a folder ``text``; see `find_folder`.
        url: The address of the folder that holds the files; ``None`` for no download.
        tokenizer: ``"words"`` or ``"bpe"``: built on the training sentences, see `build_tokenizer`. Else a folder of
            ``transformers``, or a name that its hub knows.
        vocabulary_size: A tokenizer that is built here has so many tokens at most.
        pad_token: Fills up batches; for a tokenizer that names none.
        max_length: Sentences are cut after so many tokens.
        word_dropout: Probability that a token is hidden in training; see `TokenSequences`.
        batch_size: Sentences a batch.
        calibration_batch_size: Sentences a calibration batch.
        num_workers: Processes that load the data.

    Attributes:
        dataset: Its name, which is its folder's, too.
        files: The address of each file below ``url``, by its name in the folder.
        encoder: The tokenizer that was built or read; known after `setup`, as the next.
        tokens: What networks must be fit for.

    Raises:
        ValueError: If ``word_dropout`` is no probability below 1.
    """

    dataset: ClassVar[str]
    files: ClassVar[Mapping[str, str]]

    def __init__(
        self,
        folder: str | Path,
        url: str | None = None,
        tokenizer: str | Path = "bpe",
        vocabulary_size: int = 8000,
        pad_token: str | None = None,
        max_length: int = 64,
        word_dropout: float = 0.0,
        batch_size: int = 32,
        calibration_batch_size: int = 128,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, calibration_batch_size, num_workers)
        if not 0 <= word_dropout < 1:
            raise ValueError(f"word_dropout={word_dropout} is outside [0, 1): 0.1 hides a tenth of the tokens")
        self.folder = find_folder(Path(folder), self.dataset)
        self.url = url
        self.tokenizer = tokenizer
        self.vocabulary_size = vocabulary_size
        self.pad_token = pad_token
        self.max_length = max_length
        self.word_dropout = word_dropout
        self.encoder: SentenceTokenizer | None = None
        self.tokens: TokenFormat | None = None

    @abstractmethod
    def parse_line(self, line: str) -> tuple[str, int]:
        """Read the sentence and its class from a line.

        Raises:
            ValueError: If the line is otherwise; says what is wrong with it.
        """

    @abstractmethod
    def read(self) -> dict[str, Sentences]:
        """The sentences by split: ``train``, ``val`` and ``test``."""

    def prepare_data(self) -> None:
        """Download the data if they are not there.

        Raises:
            RuntimeError: If they can't be had.
        """
        paths = {self.folder / name: source for name, source in self.files.items()}
        if self.url is None or any(path.exists() for path in paths):
            return  # files that lie there are not replaced
        urls = {path: f"{self.url}/{source}" for path, source in paths.items()}
        download_files(self.dataset, urls, self._read, self._remedy())

    def setup(self, stage: str | None = None) -> None:
        """Read the sentences, and make token ids of them."""
        if self.splits:
            return
        read = self.read()
        encoder = make_tokenizer(self.tokenizer, read["train"].texts, self.vocabulary_size, self.pad_token)
        encode = partial(TokenSequences, tokenizer=encoder, max_length=self.max_length)
        train = encode(read["train"], word_dropout=self.word_dropout)
        self.splits = {"train": train, "calibration": train, "val": encode(read["val"]), "test": encode(read["test"])}
        self.encoder, self.tokens = encoder, TokenFormat(encoder.size, self.max_length, encoder.pad_id)
        self.collate = partial(pad_batch, pad_id=encoder.pad_id)

    def read_file(self, name: str) -> Sentences:
        """The sentences of one of the files."""
        return self._read(self.folder / name)

    def _read(self, path: Path) -> Sentences:
        return read_sentences(path, self.parse_line, self._remedy())

    def _remedy(self) -> str:
        names = ", ".join(name if name == source else f"{source} as {name}" for name, source in self.files.items())
        return f"put {names}{f' of {self.url}' if self.url else ''} into {self.folder}"
