"""Weights under `weight_norm` and `spectral_norm`: what is stored is pruned, as the weights themselves say."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from reflow_lightning import calibrate, prune
from reflow_lightning.collapse import collapse
from reflow_lightning.cost import measure_cost
from reflow_lightning.pruning import PerOutput, make_masks, select

NORMS = {
    "weight_norm": (nn.utils.weight_norm, "weight_v"),
    "parametrizations.weight_norm": (parametrizations.weight_norm, "parametrizations.weight.original1"),
    "spectral_norm": (nn.utils.spectral_norm, "weight_orig"),
    "parametrizations.spectral_norm": (parametrizations.spectral_norm, "parametrizations.weight.original"),
}
CRITERIA = ("magnitude", "random", "fisher", "taylor", "snip", "wanda", "woodfisher", PerOutput("wanda"))
each_norm = pytest.mark.parametrize("norm", NORMS)
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated.*"),
    pytest.mark.filterwarnings("ignore:.*leaves"),
]


def network(norm):
    torch.manual_seed(0)
    of = NORMS[norm][0]
    layers = of(nn.Conv1d(3, 8, 3)), nn.ReLU(), of(nn.Conv1d(8, 8, 3)), nn.Flatten(), of(nn.Linear(48, 4))
    return nn.Sequential(*layers).eval()


def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(16, 3, 10, generator=generator), torch.randint(4, (16,), generator=generator)


@each_norm
def test_they_are_selected_as_they_are_stored_by_either_name(norm):
    model, stored = network(norm), NORMS[norm][1]
    assert list(select(model)) == [f"{place}.{stored}" for place in (0, 2, 4)]
    assert list(select(model, include="*.weight", exclude="2.weight")) == [f"{place}.{stored}" for place in (0, 4)]
    assert list(select(model, include=f"2.{stored}")) == [f"2.{stored}"]


@each_norm
@pytest.mark.parametrize("criterion", CRITERIA, ids=str)
@pytest.mark.parametrize("allocation", ["global", "uniform", "erk", "lamp"])
def test_zeros_of_what_is_stored_are_the_zeros_of_the_weight(norm, criterion, allocation):
    model, (x, y) = network(norm), batch()
    how = {"criterion": criterion, "allocation": allocation, "batches": [(x, y)], "max_batches": 1}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    make_masks(model, 0.9, **how)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    masks = prune(model, 0.9, **how)
    assert sum(int((~mask).sum()) for mask in masks.values()) == round(0.9 * (72 + 192 + 192))
    for _ in range(2):  # at once, and after a forward pass
        assert all(torch.equal(model[int(name[0])].weight != 0, mask) for name, mask in masks.items())
        assert model(x).isfinite().all()


@each_norm
def test_magnitudes_are_those_of_the_weights_and_not_of_what_is_stored(norm):
    model, (x, _) = network(norm), batch()
    plain = network(norm)
    for place in (0, 2, 4):
        stored = dict(model.named_parameters())[f"{place}.{NORMS[norm][1]}"]
        stored.data *= 10.0**place  # which changes no weight
    model(x), plain(x)
    scaled, other = make_masks(model, 0.8), make_masks(plain, 0.8)
    assert sum(int((scaled[name] != other[name]).sum()) for name in other) <= 2  # of nearly equal weights


def test_each_row_of_a_weight_norm_keeps_a_weight_since_zero_by_zero_is_nan():
    model = nn.utils.parametrizations.weight_norm(nn.Linear(10, 10))
    with torch.no_grad():
        model.parametrizations.weight.original0[:9] *= 1e-6  # the rows that would go
    mask = prune(model, 0.85)["parametrizations.weight.original1"]
    assert int(mask.sum()) == 15
    assert bool(mask.any(1).all())
    with pytest.raises(ValueError, match=r"need 10 weights, one in each row.*leaves only 5: use a lower sparsity"):
        prune(model, 0.95)
    assert int(mask.sum()) == int((model.weight != 0).sum())


@each_norm
def test_pruned_further_they_keep_their_zeros(norm):
    model, (x, _) = network(norm), batch()
    first = prune(model, 0.5)
    second = prune(model, 0.9)
    assert not any(bool((second[name] & ~first[name]).any()) for name in first)
    assert model(x).isfinite().all()


@each_norm
@pytest.mark.parametrize("repair", ["auto", "batchnorm", "moments", "reconstruct", "align"])
@pytest.mark.filterwarnings("ignore")
def test_a_repair_keeps_the_zeros(norm, repair):
    (model, reference), (x, _) = (network(norm), network(norm)), batch()
    for net in (model, reference):
        net.insert(1, nn.BatchNorm1d(8).eval())
    zeros = prune(model, 0.8)
    calibrate(model, [x], reference=reference, repair=repair, max_batches=1)
    named = dict(model.named_parameters())
    assert all(torch.equal(named[name] != 0, mask) for name, mask in zeros.items())
    assert model(x).isfinite().all()


@each_norm
def test_their_zeros_save_multiply_adds_and_collapse_is_exact(norm):
    model, (x, _) = network(norm), batch()
    masks = prune(model, 0.9)
    cost = measure_cost(model, x[:1])
    assert sum(layer.nonzero for layer in cost.layers) == sum(int(mask.sum()) for mask in masks.values())
    assert cost.effective < 0.3 * cost.multiply_adds
    assert torch.allclose(collapse(model, x)(x), model(x), atol=1e-5)


def test_an_n_m_pattern_leaves_a_weight_in_each_row():
    model = nn.utils.parametrizations.weight_norm(nn.Linear(8, 4))
    mask = prune(model, 0.75, pattern="1:4")["parametrizations.weight.original1"]
    assert bool((mask.view(4, 2, 4).sum(2) == 1).all())
