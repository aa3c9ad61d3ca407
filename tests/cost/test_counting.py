"""Each product counts once, for the layer whose weight takes part, with the zeros of what is multiplied."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from reflow_lightning import prune
from reflow_lightning.cost.cost import measure_cost


def rows(model, x):
    return [(layer.name, layer.multiply_adds, layer.effective) for layer in measure_cost(model, x).layers]


class Tied(nn.Module):
    """Layers of one weight, used as often as it is told."""

    def __init__(self, uses):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6, bias=False) for _ in uses)
        for layer in self.layers:
            layer.weight = self.layers[0].weight
        self.uses = uses

    def forward(self, x):
        for layer, uses in zip(self.layers, self.uses, strict=True):
            for _ in range(uses):
                x = layer(x)
        return x


@given(st.lists(st.integers(0, 3), min_size=1, max_size=4), st.sampled_from([0.0, 0.5, 0.9, 1.0]))
@settings(deadline=None, max_examples=30)
def test_each_use_of_a_tied_weight_counts_for_the_layer_that_uses_it(uses, sparsity):
    model = Tied(uses)
    model.layers[0].weight.data.view(-1)[: int(36 * sparsity)] = 0
    kept = int(model.layers[0].weight.count_nonzero())
    cost = measure_cost(model, torch.randn(1, 6))
    assert (cost.multiply_adds, cost.effective) == (36 * sum(uses), kept * sum(uses))
    assert [(layer.multiply_adds, layer.effective) for layer in cost.layers] == [(36 * n, kept * n) for n in uses]


class Decoder(nn.Module):
    def __init__(self, calls):
        super().__init__()
        self.embedding, self.head, self.calls = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False), calls
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        x = self.embedding(tokens)
        return self.head(x) if self.calls else functional.linear(x, self.head.weight)


def test_a_decoder_that_is_tied_to_an_embedding_has_its_own_row():
    assert ("head", 36, 36) in rows(Decoder(calls=True), torch.tensor([[1]]))
    assert sum(row[1] for row in rows(Decoder(calls=False), torch.tensor([[1]]))) == 36


def test_what_is_made_of_weights_counts_with_its_own_zeros():
    normed = parametrizations.weight_norm(nn.Linear(4, 6))
    normed.parametrizations.weight.original1.data[:, 0] = 0
    masked = nn.Linear(4, 6)
    nn.utils.prune.random_unstructured(masked, "weight", 0.5)
    cost = measure_cost(nn.Sequential(normed, nn.Linear(6, 4), masked), torch.randn(1, 4))
    found = [(layer.name, layer.weights, layer.multiply_adds, layer.effective) for layer in cost.layers]
    assert found == [("0", 24, 24, 18), ("1", 24, 24, 24), ("2", 24, 24, 12)]


def test_a_part_of_a_weight_counts_with_the_zeros_of_that_part():
    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 6)
            self.layer.weight.data[:3] = 0

        def forward(self, x):
            return functional.linear(x, self.layer.weight[2:])

    assert rows(Part(), torch.randn(1, 4)) == [("layer", 16, 12)]


def test_a_state_that_is_learned_is_no_weight_of_the_layer_that_it_enters():
    class Learned(nn.Module):
        def __init__(self):
            super().__init__()
            self.queries, self.layer = nn.Parameter(torch.randn(9, 4)), nn.Linear(4, 6)

        def forward(self, x):
            return self.layer(self.queries) + x

    assert rows(Learned(), torch.randn(9, 6)) == [("layer", 9 * 24, 9 * 24)]


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_weights_that_lie_side_by_side_in_memory_are_told_apart(kind):
    model = nn.Sequential(nn.Linear(3, 3), kind(3, 4, num_layers=2))
    apart = rows(model, torch.randn(1, 7, 3))
    nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(model.parameters()), model.parameters())
    assert rows(model, torch.randn(1, 7, 3)) == apart


@pytest.mark.parametrize("within", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_the_numbers_are_the_same_in_every_mode(within):
    class Within(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(2), nn.MultiheadAttention(16, 2))

        def forward(self, x):
            with within():
                x = self.layers[:2](x)
                return self.layers[2](x, x, x)[0]

    model = Within()
    prune(model, 0.5, allocation="uniform")
    cost = measure_cost(model, torch.randn(1, 3, 6, 6))
    weights = 16 * 4 * 27 + 4 * 4 * 16 * 16
    assert cost.multiply_adds - (weights + 2 * 4 * 16) == 0
    assert cost.multiply_adds - cost.effective == weights // 2
