"""SST-2 (Socher et al. 2013): sentences of film reviews, negative or positive, without the phrases within them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reflow_lightning.experiments.data.sentences import Sentences, label_among
from reflow_lightning.experiments.data.text import TextDataModule

URL = "https://raw.githubusercontent.com/clairett/pytorch-sentiment-classification/master/data/SST2"
"""A copy that many tutorials use. The publishers give trees of phrases; it holds their roots, the sentences."""


class SST2DataModule(TextDataModule):
    """The official split: 6,920 sentences to train on, 872 of validation, 1,821 of test.

    Args:
        folder: Holds ``SST-2`` with ``train.tsv``, ``dev.tsv`` and ``test.tsv``: a sentence, a tab, and 0 or 1 a line.
        url: Where the files are downloaded from when absent; ``None`` for no download.
        options: See `TextDataModule`.
    """

    dataset = "SST-2"
    files = {name: name for name in ("train.tsv", "dev.tsv", "test.tsv")}  # noqa: RUF012

    def __init__(self, folder: str | Path, url: str | None = URL, **options: Any) -> None:
        super().__init__(folder, url, **options)

    def parse_line(self, line: str) -> tuple[str, int]:
        r"""Read a sentence, a tab, and 0 or 1.

        Example:
            >>> SST2DataModule("data").parse_line("no movement , no yuks\t0")
            ('no movement , no yuks', 0)
        """
        text, tab, label = line.rpartition("\t")
        if not tab:
            raise ValueError("there is no tab between a sentence and its label")
        return text, label_among(("0", "1"), label.strip())

    def read(self) -> dict[str, Sentences]:
        """The sentences by split."""
        train, val, test = map(self.read_file, self.files)
        return {"train": train, "val": val, "test": test}
