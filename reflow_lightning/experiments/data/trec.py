"""TREC question classification (Li & Roth 2002): what kind of answer does a question ask for?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reflow_lightning.experiments.data.sentences import Sentences, label_among
from reflow_lightning.experiments.data.splits import check_share, hold_out
from reflow_lightning.experiments.data.text import TextDataModule

URL = "https://cogcomp.seas.upenn.edu/Data/QA/QC"
CLASSES = ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
"""Abbreviation, description, entity, human, location, number."""


class TRECDataModule(TextDataModule):
    """5,452 questions of six classes, some of them held out for the validation, and 500 for the test.

    Args:
        folder: Holds ``TREC`` with ``train.txt`` and ``test.txt``: ``COARSE:fine``, a space and a question a line.
        url: Where the files are downloaded from when absent; ``None`` for no download.
        val_share: Share of the training questions of each class that is held out.
        seed: Seed of that choice.
        options: See `TextDataModule`.
    """

    dataset = "TREC"
    files = {"train.txt": "train_5500.label", "test.txt": "TREC_10.label"}  # noqa: RUF012

    def __init__(
        self, folder: str | Path, url: str | None = URL, val_share: float = 0.1, seed: int = 0, **options: Any
    ) -> None:
        super().__init__(folder, url, **options)
        check_share(val_share)
        self.val_share = val_share
        self.seed = seed

    def parse_line(self, line: str) -> tuple[str, int]:
        """Read ``COARSE:fine``, a space, and a question; the fine class is left out.

        Example:
            >>> TRECDataModule("data").parse_line("LOC:city What county is Modesto , California in ?")
            ('What county is Modesto , California in ?', 4)
        """
        label, _, text = line.partition(" ")
        coarse, colon, _ = label.partition(":")
        if not colon:
            raise ValueError("there is no label such as LOC:city before the question")
        return text, label_among(CLASSES, coarse)

    def read(self) -> dict[str, Sentences]:
        """The questions by split."""
        questions, test = map(self.read_file, self.files)
        train, val = hold_out(questions.classes, self.val_share, self.seed)
        return {"train": questions.at(train), "val": questions.at(val), "test": test}
