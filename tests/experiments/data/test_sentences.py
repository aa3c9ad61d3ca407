import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reflow_lightning.experiments.data.sentences import find_folder, label_among, read_sentences


def parse(line):
    text, _, label = line.partition("|")
    return text, label_among(["no", "yes"], label)


def read(folder, content):
    path = folder / "file.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_sentences(path, parse, "take the right file")


def test_sentences_classes_and_their_lines(tmp_path):
    found = read(tmp_path, "good|yes\n bad |no\n")
    assert found.texts == ["good", "bad"]
    assert found.classes.tolist() == [1, 0]
    assert found.places == ["file.txt, line 1", "file.txt, line 2"]


@pytest.mark.parametrize("content", ["a|yes\nb|no", "a|yes\nb|no\n", "a|yes\r\nb|no\r\n", "\ufeffa|yes\nb|no\n"])
def test_ends_of_lines_and_a_byte_order_mark_do_not_matter(content, tmp_path):
    assert read(tmp_path, content).texts == ["a", "b"]


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_accents_are_read_in_either_encoding(encoding, tmp_path):
    assert read(tmp_path, "crème brûlée|yes\nañejo|no\n".encode(encoding)).texts == ["crème brûlée", "añejo"]


def test_characters_that_only_unicode_takes_for_ends_of_lines_end_none(tmp_path):
    assert read(tmp_path, "a\u2028b\x85c|yes\n").texts == ["a\u2028b\x85c"]


@given(
    st.lists(st.text(st.characters(blacklist_categories=["C", "Z"], blacklist_characters="|"), min_size=1), min_size=1)
)
def test_whatever_was_written_is_read(tmp_path_factory, texts):
    found = read(tmp_path_factory.mktemp("texts"), "".join(f"{text}|no\n" for text in texts))
    assert found.texts == texts


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "file.txt is empty: take the right file"),
        ("\n", "file.txt is empty: take the right file"),
        ("a|yes\n\nb|no\n", r"file.txt, line 2: label '' is none of no, yes in ''"),
        ("a|yes\n|no\n", r"file.txt, line 2: there is no sentence in '\|no': correct the line, or take the right file"),
        ("a|yes\n \t|no\n", "file.txt, line 2: there is no sentence"),
        ("a|yes\nb|maybe\n", r"file.txt, line 2: label 'maybe' is none of no, yes in 'b\|maybe'"),
        ("a|yes\n".encode("utf-16"), "file.txt is no text in UTF-8 or Latin-1: save it as UTF-8, or take the right"),
        (b"PK\x03\x04\x00\x00", "file.txt is no text in UTF-8 or Latin-1"),
    ],
)
def test_a_file_that_is_otherwise_is_named_with_its_line_and_the_remedy(content, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, content)


def test_a_file_that_is_not_there_is_named_with_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.txt is missing: take the right file"):
        read_sentences(tmp_path / "none.txt", parse, "take the right file")


def test_the_sentences_at_some_positions_keep_their_class_and_line(tmp_path):
    chosen = read(tmp_path, "a|yes\nb|no\nc|yes\n").at(torch.tensor([2, 1]))
    assert (chosen.texts, chosen.classes.tolist()) == (["c", "b"], [1, 0])
    assert chosen.places == ["file.txt, line 3", "file.txt, line 2"]


def test_a_folder_is_found_below_in_text_or_itself(tmp_path):
    assert find_folder(tmp_path, "SET") == tmp_path / "SET"
    (tmp_path / "text" / "SET").mkdir(parents=True)
    assert find_folder(tmp_path, "SET") == find_folder(tmp_path / "text" / "SET", "SET") == tmp_path / "text" / "SET"
    (tmp_path / "SET").mkdir()
    assert find_folder(tmp_path, "SET") == tmp_path / "SET"
