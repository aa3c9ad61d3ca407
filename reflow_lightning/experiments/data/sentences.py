"""Labelled sentences, read from text files with one a line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

ParseLine = Callable[[str], tuple[str, int]]
"""Reads the sentence and its class from a line; raises a `ValueError` that says what is wrong with it."""


@dataclass(frozen=True)
class Sentences:
    """Sentences with their classes.

    Attributes:
        texts: The sentences.
        classes: One class each, shape (N,).
        places: File and line of each, for messages.
    """

    texts: list[str]
    classes: Tensor
    places: list[str]

    def at(self, positions: Tensor) -> Sentences:
        """The sentences at some positions, in their order.

        Example:
            >>> Sentences(["good", "bad"], torch.tensor([1, 0]), ["a:1", "a:2"]).at(torch.tensor([1])).texts
            ['bad']
        """
        chosen = positions.tolist()
        return Sentences([self.texts[i] for i in chosen], self.classes[positions], [self.places[i] for i in chosen])


def read_sentences(path: Path, parse: ParseLine, remedy: str) -> Sentences:
    """Read a file with a sentence a line.

    Args:
        path: The file, in UTF-8 or else in Latin-1.
        parse: Reads a line.
        remedy: Where the right file is to be had.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no text, or a line is empty or can't be parsed. The message names the line.
    """
    texts, classes, places = [], [], []
    for number, line in enumerate(_lines(path, remedy), 1):
        try:
            text, label = parse(line)
            if not text.strip():
                raise ValueError("there is no sentence")
        except ValueError as error:
            raise ValueError(
                f"{path}, line {number}: {error} in {line[:60]!r}: correct the line, or {remedy}"
            ) from error
        texts.append(text.strip())
        classes.append(label)
        places.append(f"{path.name}, line {number}")
    return Sentences(texts, torch.tensor(classes), places)


def _lines(path: Path, remedy: str) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {remedy}")
    content = path.read_bytes()
    if b"\0" in content:  # in no text of these encodings, in every other one of UTF-16
        raise ValueError(f"{path} is no text in UTF-8 or Latin-1: save it as UTF-8, or {remedy}")
    lines = _decode(content).removesuffix("\n").split("\n")
    if lines == [""]:
        raise ValueError(f"{path} is empty: {remedy}")
    return [line.removesuffix("\r") for line in lines]


def _decode(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def label_among(names: Sequence[str], label: str) -> int:
    """The position of a label.

    Raises:
        ValueError: If it is none of the names.

    Example:
        >>> label_among(["no", "yes"], "yes")
        1
        >>> label_among(["no", "yes"], "maybe")
        Traceback (most recent call last):
        ValueError: label 'maybe' is none of no, yes
    """
    if label not in names:
        raise ValueError(f"label {label!r} is none of {', '.join(names)}")
    return names.index(label)


def find_folder(root: Path, name: str) -> Path:
    """The folder of a data set: below a folder, in its folder ``text``, or that folder itself if it has the name.

    Where there is none yet, it is the one directly below.

    Example:
        >>> find_folder(Path("data"), "TREC").as_posix()
        'data/TREC'
    """
    if root.name == name:
        return root
    return next((path for path in (root / name, root / "text" / name) if path.is_dir()), root / name)
