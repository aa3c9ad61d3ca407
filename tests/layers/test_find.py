import pytest
import torch
import torch.nn.utils.prune  # which torch does not import by itself
from torch import nn

from reflow_lightning.experiments.models.fastgrnn import FastGRNN
from reflow_lightning.layers.find import find_layers, first_tensor


def test_layers_are_found_by_name_in_the_order_of_the_modules():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.GRU(3, 2)
    )
    found = find_layers(model)
    assert list(found.known) == ["0", "1", "3", "5"]
    assert found.skipped == {}


def test_the_model_may_be_a_layer_itself():
    assert list(find_layers(nn.Linear(3, 2)).known) == [""]


def test_attention_writes_its_output_projection_itself():
    layer = nn.TransformerEncoderLayer(8, 2, 16)
    assert list(find_layers(layer).known) == ["self_attn", "linear1", "linear2", "norm1", "norm2"]


def test_a_module_in_two_places_is_one_layer():
    shared = nn.Linear(3, 3)
    assert list(find_layers(nn.Sequential(shared, nn.ReLU(), shared)).known) == ["0"]


@pytest.mark.parametrize("tied", ["weight", "bias"])
def test_layers_that_share_a_parameter_are_left_alone(tied):
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.Linear(3, 3))
    setattr(model[2], tied, getattr(model[0], tied))
    found = find_layers(model)
    assert list(found.known) == ["3"]
    assert found.skipped == dict.fromkeys(["0", "2"], "it shares a parameter with another layer")


def test_a_decoder_tied_to_its_embedding_is_left_alone():
    model = nn.ModuleDict({"embedding": nn.Embedding(5, 3), "decoder": nn.Linear(3, 5)})
    model["decoder"].weight = model["embedding"].weight
    assert find_layers(model).skipped == {"decoder": "it shares a parameter with another layer"}


def test_attention_whose_output_projection_is_tied_is_left_alone():
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(4, 2), "linear": nn.Linear(4, 4)})
    model["linear"].weight = model["attention"].out_proj.weight
    found = find_layers(model)
    assert not found.known
    assert set(found.skipped) == {"attention", "attention.out_proj", "linear"}


def test_weights_that_are_computed_are_left_alone_with_the_reason():
    model = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)),
        nn.utils.prune.identity(nn.Linear(3, 3), "weight"),
        nn.utils.parametrizations.spectral_norm(nn.Conv1d(3, 3, 1)),
        FastGRNN(3, 2, rank_w=1).cell,
    )
    remedy = "take that off, as by remove_parametrizations, once its zeros are final"
    computed = f"its weight is no plain parameter, but computed in each pass: {remedy}"
    assert find_layers(model).skipped == {
        "0": computed,
        "1": computed,
        "2": computed,
        "3": "a FastGRNN cell with factored matrices",
    }


def test_frozen_layers_are_layers_too():
    assert list(find_layers(nn.Linear(3, 2).requires_grad_(False)).known) == [""]


def test_the_first_tensor_of_an_output():
    one, two = torch.ones(1), torch.zeros(1)
    assert first_tensor(one) is first_tensor((one, two)) is first_tensor([(one, None), two]) is one
