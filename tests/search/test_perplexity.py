import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from reflow_lightning import find_sparsity
from reflow_lightning.search import perplexity

WORDS = 30


class Table(nn.Module):
    """Tells the next word by the last."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Embedding(WORDS, WORDS)

    def forward(self, input_ids, attention_mask=None, labels=None):
        return {"logits": self.logits(input_ids)}


def ids(*shape, seed=0):
    return torch.randint(WORDS, shape, generator=torch.Generator().manual_seed(seed))


def by_hand(model, sentences):
    """The mean over all next words, sentence by sentence."""
    lost = [functional.cross_entropy(model.logits(x[:-1]), x[1:], reduction="none") for x in sentences]
    return math.exp(float(torch.cat(lost).mean()))


def padded(sentences):
    found = nn.utils.rnn.pad_sequence(sentences, batch_first=True)
    return {
        "input_ids": found,
        "attention_mask": nn.utils.rnn.pad_sequence([torch.ones_like(x) for x in sentences], True),
    }


def test_it_is_that_of_every_next_word_however_they_are_split_into_batches_and_padded():
    model, sentences = Table(), [ids(length, seed=length) for length in (2, 5, 9, 3)]
    expected = by_hand(model, sentences)
    assert perplexity(model, [padded(sentences)]) == pytest.approx(expected, rel=1e-5)
    assert perplexity(model, [padded(sentences[:1]), padded(sentences[1:])]) == pytest.approx(expected, rel=1e-5)


def test_it_is_that_of_torchmetrics():
    from torchmetrics.text import Perplexity

    model, batches = Table(), [padded([ids(length, seed=length + more) for length in (4, 9, 2)]) for more in (0, 7)]
    metric = Perplexity(ignore_index=-100)
    for batch in batches:
        wanted = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        metric.update(model.logits(batch["input_ids"])[:, :-1], wanted[:, 1:])
    assert perplexity(model, batches) == pytest.approx(float(metric.compute()), rel=1e-5)


def test_a_network_that_is_sure_of_the_wrong_words_is_infinitely_perplexed():
    model = Table()
    with torch.no_grad():
        model.logits.weight.fill_(-1e4)[:, 0] = 1e4
    assert perplexity(model, [torch.ones(2, 5, dtype=torch.long)]) == math.inf


def test_labels_say_which_words_count():
    model, given = Table(), ids(3, 6)
    labels = given.clone()
    labels[:, 4:] = -100
    batch = {"input_ids": given, "labels": labels}
    assert perplexity(model, [batch]) == pytest.approx(by_hand(model, list(given[:, :4])), rel=1e-5)


def test_a_tuple_holds_the_words_first_and_a_forward_may_be_given():
    model, given = Table(), ids(3, 6)
    expected = by_hand(model, list(given))
    assert perplexity(model, [(given, "labels")]) == pytest.approx(expected, rel=1e-5)
    batches = [{"text": given, "input_ids": given}]
    assert perplexity(model, batches, forward=lambda m, b: m.logits(b["text"])) == pytest.approx(expected, rel=1e-5)


def test_the_model_is_as_before():
    model = nn.Sequential(nn.Embedding(WORDS, 4), nn.Dropout(0.5), nn.Linear(4, WORDS)).train()
    assert perplexity(model, [ids(2, 5)]) == perplexity(model, [ids(2, 5)])
    assert model.training
    assert model[1].training


class Encoder(Table):
    class config:
        is_encoder_decoder = True


@pytest.mark.parametrize(
    ("model", "batches", "said"),
    [
        (Table(), [], "no next token"),
        (Table(), [ids(3, 1)], "no next token"),
        (Table(), [{"input_ids": ids(2, 4), "attention_mask": torch.zeros(2, 4)}], "no next token"),
        (Table(), [torch.randn(2, 4)], "found no tokens in a batch of type Tensor"),
        (Table(), [{"text": "a film"}], "found no tokens in a batch of type dict, but dict"),
        (nn.Sequential(nn.Embedding(WORDS, 4), nn.Flatten()), [ids(2, 4)], r"\(2, 4\), but Sequential gave \(2, 16\)"),
        (Encoder(), [ids(2, 4)], "Encoder has an encoder"),
    ],
)
def test_what_has_none_is_an_error_that_names_the_remedy(model, batches, said):
    def forward(network, batch):
        return network(batch["input_ids"] if isinstance(batch, dict) and "input_ids" in batch else ids(2, 4))

    with pytest.raises(ValueError, match=said):
        perplexity(model, batches, forward=None if batches and isinstance(batches[0], torch.Tensor) else forward)


def sentences_of_a_grammar(count, seed):
    """Each word has three that may follow, so that no model is below 3 and the words alone tell nothing."""
    generator = torch.Generator().manual_seed(seed)
    words = [torch.randint(WORDS, (count,), generator=generator)]
    for _ in range(11):
        words.append((7 * words[-1] + torch.randint(3, (count,), generator=generator)) % WORDS)
    given = torch.stack(words, 1)
    return {"input_ids": given, "attention_mask": torch.ones_like(given), "labels": given}


def test_a_gpt2_that_learned_is_far_below_the_words_alone_and_is_pruned_as_far_as_it_stays_so():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    marks = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = transformers.GPT2Config(vocab_size=WORDS, n_embd=32, n_layer=1, n_head=2, n_positions=16, **marks)
    model = transformers.GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for step in range(80):
        optimizer.zero_grad()
        model(**sentences_of_a_grammar(32, seed=step)).loss.backward()
        optimizer.step()
    training, validation = ([sentences_of_a_grammar(64, seed) for seed in seeds] for seeds in ((101, 102), (201,)))
    dense = perplexity(model.eval(), validation)
    assert 3 <= dense < 5  # the words alone: 30

    def score(network):
        return -perplexity(network, validation)

    search = find_sparsity(
        model, training, score, max_drop=0.5, tolerance=0.1, coarse=(0.5,), repair="reconstruct", max_batches=2
    )
    assert search.sparsity >= 0.3
    assert perplexity(model, validation) == pytest.approx(-search.score)
    assert -search.score <= dense + 0.5
