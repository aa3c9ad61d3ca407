"""Quantized weights, and weights that are computed anew in each forward pass."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils import prune as torch_prune

from reflow_lightning import prune
from reflow_lightning.pruning import select


class Symmetric(nn.Module):
    def forward(self, weight):
        return weight.triu() + weight.triu(1).mT


def symmetric(layer):
    parametrize.register_parametrization(layer, "weight", Symmetric())


def pruned_by_torch(layer):
    torch_prune.l1_unstructured(layer, "weight", amount=0.25)


def pruned_twice_by_torch(layer):
    pruned_by_torch(layer)
    pruned_by_torch(layer)


KINDS = {
    "Symmetric": (symmetric, lambda layer: parametrize.remove_parametrizations(layer, "weight")),
    "_SpectralNorm": (
        parametrizations.spectral_norm,
        lambda layer: parametrize.remove_parametrizations(layer, "weight"),
    ),
    "_WeightNorm": (parametrizations.weight_norm, lambda layer: parametrize.remove_parametrizations(layer, "weight")),
    "WeightNorm": (nn.utils.weight_norm, nn.utils.remove_weight_norm),
    "SpectralNorm": (nn.utils.spectral_norm, nn.utils.remove_spectral_norm),
    "L1Unstructured": (pruned_by_torch, lambda layer: torch_prune.remove(layer, "weight")),
    "PruningContainer": (pruned_twice_by_torch, lambda layer: torch_prune.remove(layer, "weight")),
}
UNKNOWN = ("Symmetric", "L1Unstructured", "PruningContainer")  # of the norms see test_norms
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated.*")


def model_of(kind):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    KINDS[kind][0](model[0])
    return model


def names_of(model, **how):
    """What is selected, where no warning is given."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return list(select(model, **how))


@pytest.mark.parametrize("kind", UNKNOWN)
def test_a_weight_that_is_computed_anew_stays_dense_which_a_warning_says(kind):
    model = model_of(kind)
    before = {name: value.clone() for name, value in model[0].state_dict().items()}
    with pytest.warns(UserWarning, match=rf"left dense: '0.weight': computed by {kind} in each forward pass.*remove_"):
        assert list(prune(model, 0.5)) == ["1.weight"]
    assert all(torch.equal(before[name], value) for name, value in model[0].state_dict().items())
    assert names_of(model, exclude="0.*") == names_of(model, exclude="0.weight") == ["1.weight"]


@pytest.mark.parametrize("kind", UNKNOWN)
def test_named_in_include_it_is_an_error(kind):
    with pytest.raises(ValueError, match=rf"pattern '0.weight' matches no .* '0.weight': computed by {kind} in"):
        select(model_of(kind), include="0.weight")
    with pytest.raises(ValueError, match=rf"nothing to prune in Sequential.*'0.weight': computed by {kind} in"):
        select(model_of(kind)[:1])


@pytest.mark.parametrize("kind", KINDS)
def test_the_remedy_works(kind):
    model = model_of(kind)
    KINDS[kind][1](model[0])
    assert set(names_of(model)) == {"0.weight", "1.weight"}
    prune(model, 0.5)
    model(torch.ones(1, 4))
    assert sum(int((layer.weight == 0).sum()) for layer in model) == 16


def test_what_it_is_computed_from_can_be_named_in_full():
    model = model_of("_SpectralNorm")
    original = "0.parametrizations.weight.original"
    assert names_of(model, include=original) == [original]
    assert names_of(model, include=("*", original)) == [original, "1.weight"]
    prune(model, 0.5, include=original)
    assert int((model[0].weight == 0).sum()) == 8


@pytest.mark.parametrize("norm", [nn.utils.weight_norm, parametrizations.weight_norm])
def test_the_parts_of_a_recurrent_weight_are_no_weights(norm):
    """The norms of the rows in particular: without one, its row is gone."""
    model = norm(nn.GRU(3, 4), "weight_hh_l0")
    assert not any(name.endswith(("_g", "original0")) for name in names_of(model))
    assert len(names_of(model)) == 2


def test_a_weight_under_two_norms_stays_dense_which_a_warning_says():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    parametrizations.spectral_norm(parametrizations.orthogonal(model[0]))
    with pytest.warns(UserWarning, match="'0.weight': computed by _Orthogonal, _SpectralNorm in each forward pass"):
        assert list(select(model)) == ["1.weight"]


def test_looking_at_a_model_does_not_compute_its_weights():
    model = model_of("_SpectralNorm").train()  # each computation goes on with the power iteration
    before = {name: value.clone() for name, value in model.state_dict().items()}
    names_of(model, exclude="0.*")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


NOT_FLOATING = {
    torch.int8: "not floating point: prune before you quantize",
    torch.int64: "not floating point: prune before you quantize",
    torch.bool: "which has no magnitude to be pruned by",
    torch.complex64: "and complex weights are not supported: hold real and imaginary parts as a parameter each",
    torch.complex128: "and complex weights are not supported",
}


@pytest.mark.parametrize("dtype", NOT_FLOATING)
def test_a_weight_that_is_not_floating_point_stays_as_it_is_which_a_warning_says(dtype):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].weight = nn.Parameter(torch.ones(4, 4).to(dtype), requires_grad=False)
    with pytest.warns(UserWarning, match=rf"left dense: '0.weight': {dtype}, {NOT_FLOATING[dtype]}"):
        assert list(prune(model, 0.5)) == ["1.weight"]
    assert bool((model[0].weight == 1).all())
    assert names_of(model, exclude="0.*") == ["1.weight"]
    with pytest.raises(ValueError, match=rf"'0.weight' matches no prunable parameter: '0.weight': {dtype}"):
        select(model, include="0.weight")


@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization is deprecated.*", "ignore:.*quantize.*")
def test_layers_that_torch_has_quantized_have_no_parameters_left():
    model = nn.Sequential(nn.Conv1d(1, 4, 2), nn.Flatten(), nn.Linear(4, 2))
    try:
        quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    except (RuntimeError, AttributeError) as error:  # not every build of torch can
        pytest.skip(str(error))
    assert names_of(quantized) == ["0.weight"]
    with pytest.raises(ValueError, match="nothing to prune in Sequential"):
        select(quantized[2:])


def test_frozen_weights_are_pruned_all_the_same():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).requires_grad_(False)
    assert prune(model, 0.5).sparsity == 0.5
    assert not any(parameter.requires_grad for parameter in model.parameters())
