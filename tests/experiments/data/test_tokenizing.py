import pytest
import torch

from reflow_lightning.experiments.data.sentences import Sentences
from reflow_lightning.experiments.data.tokenizing import (
    CLASS,
    PAD,
    UNKNOWN,
    build_tokenizer,
    make_tokenizer,
    read_tokenizer,
)

TEXTS = ["a good film", "a bad film", "the best film of the year", "unwatchable"]
KINDS = pytest.mark.parametrize("kind", ["words", "bpe"])


def of(*texts):
    return Sentences(list(texts), torch.zeros(len(texts)), [f"line {i}" for i in range(1, len(texts) + 1)])


def saved(folder, **special):
    """A folder of ``transformers`` with a tokenizer, and nothing else."""
    from transformers import PreTrainedTokenizerFast

    found = build_tokenizer("words", TEXTS, 50).tokenizer
    PreTrainedTokenizerFast(tokenizer_object=found, **special).save_pretrained(folder)
    return folder


@KINDS
def test_a_known_sentence_comes_back_in_lower_case(kind):
    tokenizer = build_tokenizer(kind, TEXTS, 200)
    (ids,) = tokenizer.encode(of("A good FILM"), 20)
    tokens = [tokenizer.tokenizer.id_to_token(i) for i in ids]
    assert tokens[0] == CLASS
    assert "".join(tokens[1:]).replace("▁", "") == "agoodfilm"
    assert UNKNOWN not in tokens


def test_an_unknown_word_is_unknown_as_a_whole_or_known_by_its_parts():
    words, parts = (build_tokenizer(kind, TEXTS, 200) for kind in ("words", "bpe"))
    sentence = of("good badfilm")
    assert words.encode(sentence, 20)[0].count(words.unknown_id) == 1
    assert parts.unknown_id not in parts.encode(sentence, 20)[0]


@KINDS
@pytest.mark.parametrize("size", [38, 45, 1000])
def test_the_vocabulary_is_no_larger_than_asked_for_and_no_id_is_beyond_it(kind, size):
    tokenizer = build_tokenizer(kind, TEXTS, size)
    assert tokenizer.size <= size
    ids = tokenizer.encode(of(*TEXTS, "never seen before!"), 50)
    assert max(map(max, ids)) < tokenizer.size


def test_the_most_frequent_words_are_known():
    tokenizer = build_tokenizer("words", ["a b", "a b", "a c"], 5)
    assert set(tokenizer.tokenizer.get_vocab()) == {PAD, UNKNOWN, CLASS, "a", "b"}


@KINDS
def test_the_same_sentences_always_give_the_same_tokenizer(kind):
    assert len({build_tokenizer(kind, TEXTS, 60).tokenizer.to_str() for _ in range(10)}) == 1


@KINDS
def test_longer_sentences_are_cut(kind):
    tokenizer = build_tokenizer(kind, TEXTS, 200)
    (whole,) = tokenizer.encode(of("the best film of the year"), 50)
    (cut,) = tokenizer.encode(of("the best film of the year"), 4)
    assert cut == whole[:4]


@KINDS
def test_names_of_special_tokens_in_a_sentence_are_text(kind):
    tokenizer = build_tokenizer(kind, TEXTS, 200)
    (ids,) = tokenizer.encode(of("a [PAD] film"), 20)
    assert tokenizer.pad_id not in ids


@KINDS
def test_a_sentence_without_any_token_is_named(kind):
    tokenizer = build_tokenizer(kind, TEXTS, 200)
    with pytest.raises(ValueError, match=r"line 2: the tokenizer makes no token of '\\x07\\u200b': remove the line"):
        tokenizer.encode(of("good", "\x07\u200b"), 20)


def test_a_length_without_room_for_a_word_is_refused():
    with pytest.raises(ValueError, match="max_length=1 leaves no room beside 1 special tokens"):
        build_tokenizer("words", TEXTS, 200).encode(of("good"), 1)


def test_a_vocabulary_without_room_for_a_word_is_refused():
    with pytest.raises(ValueError, match=r"vocabulary_size=3 leaves no room beside \[PAD\], \[UNK\], \[CLS\]"):
        build_tokenizer("words", TEXTS, 3)
    least = len({PAD, UNKNOWN, CLASS, "▁", *"".join(TEXTS).replace(" ", "")})
    with pytest.raises(ValueError, match=f"vocabulary_size=9 leaves no room for all letters: use {least} or more"):
        build_tokenizer("bpe", TEXTS, 9)


def test_the_tokenizer_of_a_folder_is_read_with_its_special_tokens(tmp_path):
    saved(tmp_path, pad_token=PAD, unk_token=UNKNOWN)
    built, read = build_tokenizer("words", TEXTS, 50), make_tokenizer(str(tmp_path), [], 0)
    assert (read.pad_id, read.unknown_id, read.size) == (built.pad_id, built.unknown_id, built.size)
    assert read.encode(of("a good book"), 9) == built.encode(of("a good book"), 9)


def test_a_tokenizer_without_a_pad_token_is_named_with_the_remedy(tmp_path):
    saved(tmp_path, eos_token="film")
    with pytest.raises(ValueError, match=r"the tokenizer in .* has no pad token.*such as data.pad_token='film'"):
        read_tokenizer(tmp_path)
    assert read_tokenizer(tmp_path, pad_token="film").pad_id == read_tokenizer(tmp_path, "film").tokenizer.token_to_id(
        "film"
    )
    with pytest.raises(ValueError, match="pad_token='movie' is no token of the tokenizer in"):
        read_tokenizer(tmp_path, pad_token="movie")


@pytest.mark.parametrize("made", [True, False])
def test_a_tokenizer_that_is_missing_is_named_with_the_remedy(made, tmp_path):
    folder = tmp_path / "folder"
    if made:
        folder.mkdir()
    with pytest.raises(
        FileNotFoundError, match=rf"tokenizer={folder} is no folder with a tokenizer.*tokenizer.json, or"
    ):
        make_tokenizer(folder, TEXTS, 50)
