"""Examples and batches that are mappings, such as a tokenizer gives, and the models that take them."""

import pytest
import torch
from scenarios.wrecked import parameters
from torch import nn

from reflow_lightning.collapse import collapse, collapse_report
from reflow_lightning.running.difference import relative_difference

IDS = torch.randint(1, 100, (4, 12), generator=torch.Generator().manual_seed(0))
MASK = torch.ones_like(IDS).index_fill(1, torch.arange(9, 12), 0)
LABELS = torch.tensor([0, 1, 0, 1])
SIZES = {"vocab_size": 100, "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32}


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 8), nn.Linear(3, 8), nn.Linear(8, 2)
        with torch.no_grad():
            self.a.weight[:4], self.b.weight[:4] = 0, 0

    def forward(self, x, y, twice=False):
        h = (self.a(x) + self.b(y)).relu()
        return {"logits": self.head(h) * (2 if twice else 1)}


def named(samples=3):
    return {"y": torch.randn(samples, 3), "x": torch.randn(samples, 4)}


def bert():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(**SIZES, num_attention_heads=2, max_position_embeddings=16)
    return transformers.BertForSequenceClassification(config), "intermediate.dense.weight"


def gpt2():
    transformers = pytest.importorskip("transformers")
    options = {"vocab_size": 100, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16, "n_inner": 32}
    config = transformers.GPT2Config(**options, bos_token_id=0, eos_token_id=0)
    return transformers.GPT2LMHeadModel(config), "c_fc.weight"


def llama():
    transformers = pytest.importorskip("transformers")
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    config = transformers.LlamaConfig(**SIZES, **heads, max_position_embeddings=16)
    return transformers.LlamaForCausalLM(config), "gate_proj.weight"


def narrowed(make):
    """A model whose feed-forward blocks have 20 of 32 channels that are constant, and not zero where it has biases."""
    torch.manual_seed(0)
    model, wide = make()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
            if name.endswith(wide):
                (parameter.T if len(parameter) == 16 else parameter)[:20] = 0
    return model.eval()


def outputs(model, batch):
    with torch.no_grad():
        return model(**batch)


def test_a_mapping_is_passed_by_name():
    torch.manual_seed(0)
    model = Named()
    collapsed = collapse(model, named())
    assert collapsed.get_submodule("head").in_features == 4
    given = named(5)
    assert relative_difference(model(**given), collapsed(**given)) < 1e-5
    assert relative_difference(model(**given), collapsed(given["x"], given["y"])) < 1e-5
    assert list(collapsed(**given)) == ["logits"]


def test_a_flag_keeps_the_value_of_the_example():
    torch.manual_seed(0)
    model = Named()
    collapsed = collapse(model, {**named(), "twice": True})
    given = named(5)
    assert relative_difference(model(**given, twice=True), collapsed(**given, twice=True)) < 1e-5


def test_the_one_known_key_of_a_mapping_is_the_input():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    x = torch.randn(2, 4)
    collapsed = collapse(model, {"image": x, "label": 1})
    torch.testing.assert_close(collapsed(x), model(x))


@pytest.mark.parametrize("forward", [None, lambda model, batch: model(**batch)])
def test_batches_are_mappings_too(forward):
    torch.manual_seed(0)
    model = Named()
    with torch.no_grad():
        model.a.bias.fill_(100)
    collapsed = collapse(model, named(), batches=[named(), named()], forward=forward)
    assert any("on 2 batches" in row.why for row in collapse_report(collapsed).removed)
    given = named(5)
    assert relative_difference(model(**given), collapsed(**given)) < 1e-5


def test_a_batch_that_lacks_what_the_example_gives_is_refused():
    with pytest.raises(ValueError, match=r"a batch lacks x, y, which example_input gives.*forward="):
        collapse(Named(), {"x": torch.ones(1, 4), "y": torch.ones(1, 3)}, batches=[torch.ones(1, 4)])


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({}, "does not run on example_input"),
        ({"x": torch.ones(1, 4)}, "does not run on example_input"),
        ({"z": torch.ones(1, 4)}, "does not run on example_input"),
        ({"x": torch.ones(0, 4), "y": torch.ones(0, 3)}, "is empty"),
        ({"x": torch.full((1, 4), torch.nan), "y": torch.ones(1, 3)}, "holds NaN"),
        ({"x": torch.ones(1, 4), "y": None}, "holds None"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused(example, message):
    with pytest.raises(ValueError, match=message):
        collapse(Named(), example)


@pytest.mark.slow
@pytest.mark.parametrize("labels", [{}, {"labels": LABELS}], ids=["without labels", "with labels"])
@pytest.mark.parametrize("make", [bert, gpt2, llama])
def test_the_feed_forward_blocks_of_language_models_are_narrowed_and_the_rest_is_named(make, labels):
    model = narrowed(make)
    batch = {"input_ids": IDS, "attention_mask": MASK} | ({"labels": IDS} if labels and make is not bert else labels)
    collapsed = collapse(model, batch)
    assert type(collapsed) is type(model)
    assert collapsed.state_dict().keys() == model.state_dict().keys()
    assert parameters(collapsed) < parameters(model)
    shorter = {"input_ids": IDS[:3, :7], "attention_mask": MASK[:3, :7]}
    for given in (batch, shorter, {"input_ids": IDS.flip(0)}):
        assert relative_difference(outputs(model, given).logits, outputs(collapsed, given).logits) < 1e-5
    removed = {row.where for row in collapse_report(collapsed).removed}
    assert sum("dense" in name or "c_fc" in name or "gate_proj" in name for name in removed) == 2
    assert any("attn" in row.where or "attention" in row.where for row in collapse_report(collapsed).left)


@pytest.mark.slow
def test_a_language_model_still_generates_and_keeps_its_tied_embedding():
    model = narrowed(gpt2)
    collapsed = collapse(model, {"input_ids": IDS}, batches=[{"input_ids": IDS.flip(0), "attention_mask": MASK}])
    assert collapsed.lm_head.weight is collapsed.transformer.wte.weight
    options = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    given = {"input_ids": IDS[:, :5], "attention_mask": MASK[:, :5]}
    assert torch.equal(model.generate(**given, **options), collapsed.generate(**given, **options))
