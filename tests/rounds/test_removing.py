"""The loop of arXiv 2404.16890 on networks with GELU: the rectifier that switches least goes, and training goes on."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from reflow_lightning.collapse import collapse
from reflow_lightning.experiments.models.vit import VisionTransformer
from reflow_lightning.rounds import remove_rectifier
from reflow_lightning.running.difference import relative_difference
from reflow_lightning.signal import measure_entropy

X = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))


def mlp(activation=nn.GELU):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), activation(), nn.Linear(8, 8), activation(), nn.Linear(8, 2)).eval()


@pytest.mark.parametrize("activation", [nn.GELU, nn.ReLU, nn.SiLU])
def test_neurons_that_are_mostly_off_put_out_zero_and_the_others_their_input(activation):
    model = mlp(activation)
    hidden = model[1](model[0](X))
    before = model[2](hidden)
    on = (before > 0).double().mean(0) > 0.5
    expected = model[4](before * on)
    removed = remove_rectifier(model, [X[:40], X[40:]], layer="2")
    torch.testing.assert_close(model(X), expected)
    assert (removed.layer, removed.rectifier, removed.off) == ("2", "3", int((~on).sum()))
    assert isinstance(model[3], nn.Identity)


def test_by_default_the_one_of_the_lowest_entropy_goes_and_the_next_one_follows():
    model = mlp()
    with torch.no_grad():
        model[2].bias += torch.tensor([9.0, -9.0]).repeat(4)
    rows = {row.layer: row.entropy for row in measure_entropy(model, [X]).rows}
    removed = remove_rectifier(model, [X])
    assert removed.layer == min(rows, key=rows.get) == "2"
    assert removed.entropy == rows["2"]
    assert remove_rectifier(model, [X]).layer == "0"
    with pytest.raises(ValueError, match="no rectifier is left that is a module of its own"):
        remove_rectifier(model, [X])


def test_a_relu_that_never_switches_goes_without_any_change():
    model = mlp(nn.ReLU)
    with torch.no_grad():
        model[2].bias += torch.tensor([99.0, -99.0]).repeat(4)
    before = model(X)
    assert remove_rectifier(model, [X]).off == 4
    torch.testing.assert_close(model(X), before)


def test_the_masks_keep_the_rows_zero_while_the_network_is_trained_and_collapse_then_merges():
    model = mlp()
    removed = remove_rectifier(model, [X], layer="0")
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    removed.masks.keep(model, optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        functional.mse_loss(model(X), X[:, :2]).backward()
        optimizer.step()
    assert int(((model[0].weight == 0).all(1) & (model[0].bias == 0)).sum()) == removed.off > 0
    collapsed = collapse(model, X)
    assert relative_difference(model(X), collapsed(X)) < 1e-5
    assert sum(isinstance(module, nn.Linear) for module in collapsed.modules()) == 2


def test_all_blocks_of_a_vision_transformer_lose_their_gelu_one_by_one():
    torch.manual_seed(0)
    model = VisionTransformer(8, 4, 1, 3, width=8, depth=3, heads=2).eval()
    batches = [(torch.randn(16, 1, 8, 8), torch.zeros(16))]
    removed = [remove_rectifier(model, batches) for _ in range(3)]
    assert sorted(found.rectifier for found in removed) == [f"blocks.{i}.activation" for i in range(3)]
    linear = collapse(model, batches[0][0])
    assert relative_difference(model(batches[0][0]), linear(batches[0][0])) < 1e-5


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(4, 4), nn.Linear(4, 4), nn.LayerNorm(4)
        self.act = nn.GELU()

    def forward(self, x):
        return functional.gelu(self.a(x)) + self.act(self.norm(self.b(x)))


def test_rectifiers_that_can_not_be_replaced_are_named_and_nothing_is_changed():
    model = Functional()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"that after a is a function.*nn.GELU\(\).*after b does not follow directly"):
        remove_rectifier(model, [X])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert isinstance(model.act, nn.GELU)


def test_a_rectifier_that_serves_several_layers_is_refused():
    act = nn.ReLU()
    model = nn.Sequential(nn.Linear(4, 4), act, nn.Linear(4, 4), act)
    with pytest.raises(ValueError, match="serves several layers: give each its own"):
        remove_rectifier(model, [X])


def test_a_layer_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(ValueError, match=r"layer='1' names no layer.*use one of \['0', '2'\]"):
        remove_rectifier(mlp(), [X], layer="1")


def test_without_batches_it_says_so():
    with pytest.raises(ValueError, match="gave no batch"):
        remove_rectifier(mlp(), [])


@pytest.mark.slow
def test_a_language_model_with_mappings_as_batches_loses_its_gelus_and_padding_does_not_count():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 8, "num_hidden_layers": 2, "intermediate_size": 16}
    config = transformers.BertConfig(**sizes, num_attention_heads=2, max_position_embeddings=16)
    model = transformers.BertForSequenceClassification(config).eval()
    ids = torch.randint(1, 50, (4, 9))
    padded = {
        "input_ids": torch.cat([ids, torch.zeros(4, 5, dtype=torch.int64)], 1),
        "attention_mask": torch.ones(4, 14, dtype=torch.int64).index_fill(1, torch.arange(9, 14), 0),
    }
    short = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    entropies = {row.layer: row.entropy for row in measure_entropy(model, [short]).rows}
    removed = [remove_rectifier(model, [padded]) for _ in range(2)]
    layers = [f"bert.encoder.layer.{i}.intermediate" for i in (0, 1)]
    assert {found.layer for found in removed} == {f"{layer}.dense" for layer in layers}
    assert {found.rectifier for found in removed} == {f"{layer}.intermediate_act_fn" for layer in layers}
    assert removed[0].entropy == pytest.approx(min(entropies.values()), abs=1e-6)
    collapsed = collapse(model, short)
    assert relative_difference(model(**short).logits, collapsed(**short).logits) < 1e-5
    assert sum(p.numel() for p in collapsed.parameters()) < sum(p.numel() for p in model.parameters())


def test_the_fused_kernel_of_an_encoder_layer_leaves_the_gelu_out_too():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, nn.GELU(), batch_first=True).eval()
    remove_rectifier(layer, [torch.randn(4, 3, 8)])
    x = torch.randn(4, 3, 8)
    with torch.no_grad():
        fused = layer(x)
    torch.testing.assert_close(fused, layer(x).detach())
