"""How much of all matrices is pruned."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from reflow_lightning import prune
from reflow_lightning.pruning import Coverage, Masks

pytestmark = pytest.mark.filterwarnings("ignore:left dense")


class Conv1D(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs)), nn.Parameter(torch.zeros(outputs))


class Symmetric(nn.Module):
    def forward(self, weight):
        return weight.triu() + weight.triu(1).mT


def test_what_is_left_is_counted_by_type_the_largest_first():
    model = nn.ModuleList([Conv1D(8, 8), Conv1D(8, 8), nn.Linear(10, 10), nn.Conv1d(2, 2, 3)])
    coverage = prune(model, 0.7, exclude="3.*").coverage(model)
    assert coverage == Coverage(70, 128 + 100 + 12, {"Conv1D": 2, "Conv1d": 1}, 0)
    assert coverage.words == "0.2917 of all matrices; left: Conv1D x 2, Conv1d x 1"
    assert coverage.to_dict()["share"] == 70 / 240


@pytest.mark.parametrize(
    "others",
    [
        [nn.LayerNorm(4), nn.BatchNorm1d(4), nn.PReLU(4)],
        [nn.ParameterDict({"pos_embed": nn.Parameter(torch.ones(5, 4))})],
    ],
    ids=["norms", "positions"],
)
def test_what_is_no_matrix_does_not_count(others):
    model = nn.ModuleList([nn.Linear(4, 4), *others])
    coverage = prune(model, 0.5).coverage(model)
    assert (coverage.matrices, coverage.left, coverage.words) == (16, {}, "")
    assert coverage.tables == 0
    assert coverage.share_with_tables == coverage.share == 0.5


def test_embeddings_are_no_matrices_and_are_named_with_their_share():
    model = nn.ModuleList([nn.Linear(4, 4), nn.Embedding(7, 4), nn.EmbeddingBag(5, 4)])
    coverage = prune(model, 0.5).coverage(model)
    assert coverage == Coverage(8, 16, {}, 48)
    assert coverage.words == "0.1250 with the embeddings, which are dense and 75 % of all"
    zeros = sum(int((p == 0).sum()) for name, p in model.named_parameters() if not name.endswith("bias"))
    assert coverage.to_dict()["share_with_tables"] == zeros / 64


def test_an_embedding_that_was_selected_counts_as_what_else_was():
    model = nn.ModuleList([nn.Linear(4, 4), nn.Embedding(7, 4)])
    coverage = prune(model, 0.5, include=("0.weight", "1.weight")).coverage(model)
    assert coverage == Coverage(22, 44, {}, 0)
    assert coverage.words == ""


def test_a_tied_decoder_is_its_embedding():
    model = nn.ModuleList([nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 7, bias=False)])
    model[2].weight = model[0].weight
    assert prune(model, 0.5).coverage(model) == Coverage(8, 16, {}, 28)


def test_weights_that_are_computed_count_once_pruned_or_left():
    model = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])
    nn.utils.parametrizations.weight_norm(model[0])
    parametrize.register_parametrization(model[1], "weight", Symmetric())
    coverage = prune(model, 0.5).coverage(model)
    assert coverage == Coverage(16, 48, {"Linear": 1}, 0)


def test_what_was_named_in_include_counts_though_it_is_no_matrix():
    model = nn.Linear(4, 4)
    assert prune(model, 0.5, include="bias").coverage(model) == Coverage(2, 20, {"Linear": 1}, 0)


def test_recurrent_and_attention_layers_count_all_their_matrices():
    model = nn.ModuleList([nn.LSTM(4, 4), nn.MultiheadAttention(4, 2), nn.Linear(4, 4)])
    assert prune(model, 0.5, include="2.*").coverage(model) == Coverage(
        8, 128 + 64 + 16, {"LSTM": 2, "MultiheadAttention": 2}, 0
    )


def test_masks_of_buffers_count_for_nothing():
    model = nn.Linear(2, 2)
    model.register_buffer("average", torch.ones(2, 2))
    half = torch.tensor([[True, False]] * 2)
    assert Masks({"weight": half, "average": half}).coverage(model) == Coverage(2, 4, {}, 0)
