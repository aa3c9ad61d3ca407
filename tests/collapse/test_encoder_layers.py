"""Within the layers of torch's transformer encoder, by themselves, in a stack, and in torch's own container."""

import copy

import pytest
import torch
from torch import nn

from reflow_lightning import collapse
from reflow_lightning.rounds import remove_rectifier


class Stack(nn.Module):
    """Layers one after the other, then a classifier."""

    def __init__(self, layers):
        super().__init__()
        self.layers, self.head = nn.ModuleList(layers), nn.Linear(16, 3)

    def forward(self, x, padding=None):
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=padding)
        return self.head(x.mean(1))


class Contained(nn.Module):
    """The same in torch's container, whose forward pass can't be traced."""

    def __init__(self, layers):
        super().__init__()
        self.encoder = nn.TransformerEncoder(layers[0], len(layers), enable_nested_tensor=False)
        self.head = nn.Linear(16, 3)

    def forward(self, x, padding=None):
        return self.head(self.encoder(x, src_key_padding_mask=padding).mean(1))


def layer(norm_first=True, activation=None):
    return nn.TransformerEncoderLayer(
        16, 2, 32, activation=activation or nn.GELU(), batch_first=True, norm_first=norm_first
    )


def random(module):
    """Norms with weights of their own: torch begins with ones."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.eval()


X = torch.randn(6, 5, 16, generator=torch.Generator().manual_seed(1))
PADDING = torch.arange(5) >= torch.tensor([5, 3, 4, 5, 1, 2])[:, None]


@torch.no_grad()
def same(model, smaller, *inputs):
    before, after = model(*inputs), smaller(*inputs)
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5 * float(before.abs().max()))


def linears(model):
    return sum(type(module) is nn.Linear for module in model.modules())


@pytest.mark.parametrize("inputs", [(X,), (X, PADDING)], ids=["whole", "padded"])
@pytest.mark.parametrize("norm_first", [True, False], ids=["pre-norm", "post-norm"])
@pytest.mark.parametrize("kind", [Stack, Contained])
def test_a_removed_rectifier_makes_two_layers_one(kind, norm_first, inputs):
    model = random(kind([layer(norm_first), layer(norm_first)]))
    batch = {"x": inputs[0], "padding": inputs[1]} if len(inputs) > 1 else inputs[0]
    for _ in range(2):
        remove_rectifier(model, [batch], max_batches=1, progress=False)
    smaller = collapse(model, inputs)
    same(model, smaller, *inputs)
    assert linears(smaller) == linears(model) - 2


@pytest.mark.parametrize("kind", [Stack, Contained])
def test_units_that_do_nothing_go_and_a_layer_keeps_its_class(kind):
    model = random(kind([layer(), layer()]))
    first = model.layers[0] if kind is Stack else model.encoder.layers[0]
    with torch.no_grad():
        first.linear1.weight[:20], first.linear1.bias[:20] = 0, 0
    smaller = collapse(model, X)
    same(model, smaller, X)
    narrowed = [m for m in smaller.modules() if isinstance(m, nn.Linear) and m.out_features == 12]
    assert len(narrowed) == 1


def test_a_layer_by_itself():
    model = random(layer(activation=nn.ReLU()))
    with torch.no_grad():
        model.linear1.weight[:], model.linear1.bias[:] = 0, -1
    smaller = collapse(model, X)
    same(model, smaller, X)
    assert sum(p.numel() for p in smaller.parameters()) < 0.6 * sum(p.numel() for p in model.parameters())


def test_a_mask_for_attention_holds():
    class Causal(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer()

        def forward(self, x):
            mask = nn.Transformer.generate_square_subsequent_mask(5)
            return self.layer(x, src_mask=mask, is_causal=True)

    model = random(Causal())
    other = copy.deepcopy(model)
    with torch.no_grad():
        model.layer.linear1.weight[:9], model.layer.linear1.bias[:9] = 0, 0
    smaller = collapse(model, X)
    same(model, smaller, X)
    assert any(isinstance(m, nn.Linear) and m.out_features == 23 for m in smaller.modules())
    assert not torch.allclose(other(X), model(X))


def test_a_class_of_ones_own_is_left_to_its_own_forward_pass():
    class Mine(nn.TransformerEncoderLayer):
        def forward(self, src, *args, **kwargs):
            return super().forward(src, *args, **kwargs) + 1

    model = random(nn.Sequential(Mine(16, 2, 32, batch_first=True), nn.Linear(16, 3)))
    same(model, collapse(model, X), X)
