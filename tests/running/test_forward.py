import copy
from collections import UserDict

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from reflow_lightning import calibrate, measure_signal, prune
from reflow_lightning.running.forward import batch_arguments, batch_input, default_forward


@pytest.mark.parametrize("key", ["x", "image", "input", "pixel_values", "input_ids"])
def test_the_input_of_a_dict_is_found_by_key(key):
    assert batch_input({"labels": 1, key: 2}) == 2


def test_the_input_of_other_batches():
    assert batch_input([1, 2]) == 1
    assert batch_input((1,)) == 1
    assert batch_input(1) == 1
    assert batch_input({"a": 1}) == {"a": 1}


@pytest.mark.parametrize(
    ("batch", "text"),
    [({"tokens": torch.ones(2)}, r"a dict from a batch of type dict with keys \['tokens'\]"), ((), "a tuple")],
)
def test_a_batch_that_it_does_not_understand_is_an_error_that_names_forward(batch, text):
    with pytest.raises(TypeError, match=rf"{text}.*pass forward=lambda model, batch"):
        default_forward(nn.Linear(2, 2), batch)


def test_an_error_of_the_model_itself_is_passed_on():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        default_forward(nn.Linear(2, 2), torch.ones(3, 3))


def test_a_module_without_forward_is_an_error_that_names_forward():
    with pytest.raises(TypeError, match="pass forward="):
        default_forward(nn.Module(), torch.ones(3))


class Language(nn.Module):
    """A model of language, and what it was called with last."""

    def forward(self, input_ids, attention_mask=None, labels=None):
        self.got = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        return input_ids


def wrapped(model, metric):
    """A LightningModule that hands on what it gets, as in Lightning's own examples of language models."""

    class Wrapper(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = model
            if metric:
                self.metric = nn.Identity()

        def forward(self, **inputs):
            return self.model(**inputs)

    return Wrapper()


TOKENS = {"input_ids": 1, "attention_mask": 2}


@pytest.mark.parametrize("kind", [dict, UserDict])
@pytest.mark.parametrize(
    ("batch", "arguments"),
    [
        (TOKENS, TOKENS),
        (TOKENS | {"labels": 3}, TOKENS | {"labels": 3}),
        (TOKENS | {"labels": 3, "idx": 4}, TOKENS | {"labels": 3}),  # as transformers' own Trainer does
        (TOKENS | {"token_type_ids": 3}, TOKENS),
        ({"attention_mask": 2, "labels": 3}, {"attention_mask": 2, "labels": 3}),
        ({"attention_mask": 2, "idx": 3}, {}),
        ({"x": 1, "labels": 3}, {}),
        ({}, {}),
        ({0: 1}, {}),
    ],
)
def test_keys_that_the_forward_takes_become_its_arguments(kind, batch, arguments):
    assert batch_arguments(Language(), kind(batch)) == arguments


def test_tuples_and_tensors_have_no_names():
    assert batch_arguments(Language(), (1, 2)) == batch_arguments(Language(), torch.ones(1)) == {}


def test_a_known_key_comes_first_where_the_forward_does_not_take_all():
    class Classifier(nn.Module):
        def forward(self, pixels, labels=None):
            return pixels, labels

    assert default_forward(Classifier(), {"image": 1, "labels": 2}) == (1, None)
    assert default_forward(Classifier(), {"pixels": 1, "labels": 2}) == (1, 2)
    assert default_forward(nn.Identity(), {"input_ids": 1, "attention_mask": 2}) == 1


def test_an_argument_that_has_no_name_is_none():
    class Positional(nn.Module):
        def forward(self, x, /):
            return x

    assert default_forward(Positional(), {"x": 1}) == 1


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: torch.compile(model, backend="eager"),
        nn.DataParallel,
        AveragedModel,
        lambda model: wrapped(model, metric=False),
        lambda model: wrapped(wrapped(model, metric=False), metric=False),
    ],
    ids=["compiled", "DataParallel", "AveragedModel", "LightningModule", "two of them"],
)
def test_a_wrapper_takes_what_the_model_within_takes(wrap):
    assert batch_arguments(wrap(Language()), TOKENS | {"labels": 3, "idx": 4}) == TOKENS | {"labels": 3}
    assert batch_arguments(wrap(nn.Linear(2, 2)), TOKENS) == {}


def test_a_forward_that_was_compiled_keeps_its_names():
    model = Language()
    model.forward = torch.compile(model.forward, backend="eager")
    assert batch_arguments(model, TOKENS) == TOKENS


def test_a_wrapper_of_several_modules_takes_what_tokenizers_give():
    model = wrapped(Language(), metric=True)
    assert batch_arguments(model, TOKENS | {"labels": 3, "token_type_ids": 5}) == TOKENS | {"token_type_ids": 5}
    assert batch_arguments(model, {"image": 1, "labels": 3}) == {}


def test_a_forward_of_some_names_and_any_other_takes_its_own_and_those_of_tokenizers():
    class Open(nn.Module):
        def forward(self, input_ids, labels=None, **others):
            return others

    assert default_forward(Open(), TOKENS | {"labels": 3, "idx": 4}) == {"attention_mask": 2}


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_a_scripted_module():
    model = torch.jit.script(nn.Sequential(nn.Linear(2, 2)))
    assert default_forward(model, {"input": torch.ones(1, 2)}).shape == (1, 2)


def test_an_argument_that_is_missing_is_an_error_that_names_forward():
    class Pair(nn.Module):
        def forward(self, first, second):
            return first, second

    text = r"Pair as model\(first=...\) from a batch of type dict with keys \['first'\].*pass forward=lambda"
    with pytest.raises(TypeError, match=text):
        default_forward(Pair(), {"first": 1})


def test_an_error_of_a_model_that_is_given_names_is_passed_on():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as error:
        default_forward(nn.Linear(2, 2), {"input": torch.ones(3, 3)})
    assert "model(input=...)" in "".join(getattr(error.value, "__notes__", [str(error.value)]))


def test_models_of_transformers():
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 11, "num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 8}
    gpt2 = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))
    bert = transformers.BertModel(transformers.BertConfig(**sizes, intermediate_size=16))
    tokens = torch.arange(10).view(2, 5)
    batch = transformers.BatchEncoding({"input_ids": tokens, "attention_mask": torch.ones_like(tokens)})
    for model in (gpt2, bert, wrapped(bert, metric=False), torch.compile(bert, backend="eager")):
        measure_signal(model, [batch, {**batch, "labels": tokens, "idx": [1, 2]}], max_batches=2)
    assert default_forward(gpt2, {**batch, "labels": tokens}).loss is not None
    prune(gpt2, 0.5, criterion="wanda", batches=[batch], max_batches=1, include="lm_head.weight")
    assert calibrate(bert, [batch], reference=copy.deepcopy(bert), repair="moments", max_batches=1).repaired
