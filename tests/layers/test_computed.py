"""Weights that a norm computes of stored ones."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from reflow_lightning.layers import Computed, Inventory

NORMS = {
    "weight_norm": nn.utils.weight_norm,
    "weight_norm of a whole": lambda layer: nn.utils.weight_norm(layer, dim=None),
    "weight_norm of columns": lambda layer: parametrizations.weight_norm(layer, dim=1),
    "parametrizations.weight_norm": parametrizations.weight_norm,
    "spectral_norm": nn.utils.spectral_norm,
    "parametrizations.spectral_norm": parametrizations.spectral_norm,
}
PARTS = {"weight_norm": 4, "parametrizations.weight_norm": 4, "weight_norm of columns": 3}
each_norm = pytest.mark.parametrize("norm", NORMS)
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated.*")


def layer_with(norm):
    torch.manual_seed(0)
    layer = NORMS[norm](nn.Conv1d(3, 4, 2)).eval()
    layer(torch.ones(1, 3, 2))
    return layer


@each_norm
def test_the_value_is_that_of_the_layer(norm):
    layer = layer_with(norm)
    computed = Computed.of(layer, "weight")
    assert torch.equal(computed.value(), layer.weight)
    assert computed.stored is dict(layer.named_parameters())[computed.path]


@each_norm
def test_asking_for_it_changes_nothing_in_train_mode_either(norm):
    layer = layer_with(norm).train()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    Computed.of(layer, "weight").value()
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())
    assert all(module.training for module in layer.modules())


@each_norm
def test_with_what_is_needed_alone_the_weight_is_finite(norm):
    layer = layer_with(norm)
    computed = Computed.of(layer, "weight")
    needed = computed.needed(computed.value().abs())
    assert int(needed.sum()) == computed.parts == PARTS.get(norm, 1)
    computed.stored.data *= needed
    computed.follow()
    assert computed.value().isfinite().all()
    assert torch.equal(layer.weight != 0, needed)


@pytest.mark.parametrize("norm", ["spectral_norm", "parametrizations.spectral_norm"])
def test_the_spectral_norm_follows_to_one(norm):
    layer = layer_with(norm)
    computed = Computed.of(layer, "weight")
    computed.stored.data[:, 0] = 0
    computed.follow()
    assert torch.linalg.matrix_norm(computed.value().flatten(1), 2).item() == pytest.approx(1, rel=1e-3)


def test_the_inventory_knows_the_layer_by_what_is_stored():
    layer = layer_with("parametrizations.weight_norm")
    [owned] = Inventory.of(layer).weights.values()
    assert owned.parameter is layer.parametrizations.weight.original1
    assert torch.equal(owned.value, layer.weight)
