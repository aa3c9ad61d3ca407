import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reflow_lightning.experiments.data.sentences import Sentences
from reflow_lightning.experiments.data.tokenizing import build_tokenizer
from reflow_lightning.experiments.data.tokens import TokenSequences, pad_batch

TEXTS = ["a good film", "a bad film of the year"]


def sequences(**options):
    sentences = Sentences(TEXTS, torch.tensor([1, 0]), ["line 1", "line 2"])
    return TokenSequences(sentences, build_tokenizer("words", TEXTS, 50), max_length=20, **options)


@given(st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=9), min_size=1, max_size=5), st.integers(0, 99))
def test_a_batch_is_as_long_as_its_longest_sequence_and_its_mask_tells_tokens_from_padding(ids, pad_id):
    samples = [(torch.tensor(sequence), torch.tensor(i)) for i, sequence in enumerate(ids)]
    inputs, classes = pad_batch(samples, pad_id)
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape == (len(ids), max(map(len, ids)))
    for row, mask, sequence in zip(inputs["input_ids"], inputs["attention_mask"], ids, strict=True):
        assert row[mask.bool()].tolist() == sequence
        assert (row[~mask.bool()] == pad_id).all()
    assert classes.tolist() == list(range(len(ids)))


def test_without_word_dropout_a_sentence_is_always_the_same():
    data = sequences()
    assert torch.equal(data[1][0], data[1][0])
    assert data[1][1] == 0


def test_word_dropout_hides_its_share_of_the_words_and_never_the_special_tokens():
    data, whole = sequences(word_dropout=0.3), sequences()[1][0]
    drawn = torch.stack([data[1][0] for _ in range(1000)])
    hidden = drawn == data.unknown_id
    assert not hidden[:, 0].any()  # the token before each sentence
    assert hidden[:, 1:].float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert torch.equal(torch.where(hidden, whole, drawn), whole.expand_as(drawn))


def test_word_dropout_needs_a_token_for_unknown_words():
    tokenizer = build_tokenizer("words", TEXTS, 50)
    without = type(tokenizer)(tokenizer.tokenizer, 0, None)
    with pytest.raises(ValueError, match=r"word_dropout=0.1, but the tokenizer has no token for unknown words: use"):
        TokenSequences(Sentences(TEXTS, torch.tensor([1, 0]), ["1", "2"]), without, 20, word_dropout=0.1)
