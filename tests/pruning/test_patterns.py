import pytest
import torch
from torch import nn

from reflow_lightning import prune
from reflow_lightning.pruning import make_masks
from reflow_lightning.pruning.patterns import Pattern


@pytest.mark.parametrize("text", ["2-4", "4:2", "0:4", "", "2:4:8", "a:b"])
def test_malformed_patterns_are_errors(text):
    with pytest.raises(ValueError, match="is not 'N:M'"):
        Pattern.parse(text)


@pytest.mark.parametrize("layer", [nn.Linear(16, 8), nn.Conv2d(8, 4, 3), nn.Conv1d(8, 4, 5)])
def test_of_every_four_input_channels_the_two_largest_stay(layer):
    dense = layer.weight.detach().clone()
    masks = prune(layer, 0.5, pattern="2:4")
    groups = masks["weight"].movedim(1, -1).reshape(-1, 4)
    assert (groups.sum(1) == 2).all()
    largest = dense.abs().movedim(1, -1).reshape(-1, 4).topk(2).indices.sort().values
    assert torch.equal(groups.nonzero()[:, 1].view(-1, 2), largest)


def test_more_sparsity_goes_on_within_the_pattern():
    layer = nn.Linear(64, 32)
    masks = prune(layer, 0.8, pattern="2:4")
    assert int((~masks["weight"]).sum()) == round(0.8 * 64 * 32)
    assert (masks["weight"].view(-1, 4).sum(1) <= 2).all()


def test_less_sparsity_than_the_pattern_is_an_error():
    with pytest.raises(ValueError, match=r"sparsity=0.3 is below the 0.5 that pattern='2:4' prunes"):
        prune(nn.Linear(8, 8), 0.3, pattern="2:4")


def test_a_shape_that_it_does_not_divide_is_an_error_that_says_what_to_exclude():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    with pytest.raises(ValueError, match=r"dimension 1 of '0.weight' \(8, 3, 3, 3\).*exclude=\['0.weight'\]"):
        prune(model, 0.5, pattern="2:4")
    assert (model[1].weight != 0).all()
    prune(model, 0.5, pattern="2:4", exclude=("0.weight",))


def test_no_block_of_a_transposed_convolution_spans_two_groups():
    with pytest.raises(ValueError, match="along the inputs, to be a multiple of 4 in each of 4 groups"):
        prune(nn.ConvTranspose2d(8, 8, 3, groups=4), 0.5, pattern="2:4")
    masks = prune(nn.ConvTranspose2d(8, 4, 3, groups=2), 0.5, pattern="2:4")
    assert (masks["weight"].view(2, 4, 2, 3, 3).sum(1) == 2).all()


def test_ties_go_by_position():
    layer = nn.Linear(4, 1)
    nn.init.ones_(layer.weight)
    assert prune(layer, 0.5, pattern="2:4")["weight"].tolist() == [[False, False, True, True]]


def test_min_kept_is_a_share_of_all_weights_within_the_pattern():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 92))
    nn.init.constant_(model[0].weight, 1e-6)
    masks = prune(model, 0.9, pattern="2:4", min_kept=0.04)
    assert int(masks["0.weight"].sum()) == 32  # int(0.04 * 800), which is all that the pattern leaves there
    assert int((~masks["0.weight"]).sum() + (~masks["1.weight"]).sum()) == 720


@pytest.mark.parametrize("criterion", ["magnitude", "random", lambda name, weight: -weight.abs()])
def test_what_was_pruned_stays_pruned_within_the_pattern(criterion):
    layer = nn.Linear(16, 16)
    first = prune(layer, 0.8, criterion="random", pattern="2:4")
    again = make_masks(layer, 0.9, criterion=criterion, pattern="2:4", previous=first)
    assert not (again["weight"] & ~first["weight"]).any()
    second = prune(layer, 0.9, criterion=criterion, pattern="2:4")
    assert int((layer.weight != 0).sum()) == int(second["weight"].sum()) == 256 - round(0.9 * 256)


def test_no_allocation_breaks_the_pattern():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    with pytest.raises(ValueError, match=r"gave 64 for '1.weight': it must lie between 0 and 32"):
        prune(model, 0.5, pattern="2:4", allocation=lambda scores, keep, floors: {"0.weight": 0, "1.weight": 64})
    masks = prune(model, 0.5, pattern="2:4", allocation="uniform")
    assert all((mask.view(-1, 4).sum(1) == 2).all() for mask in masks.values())
