import pytest
import torch
from torch import nn

from reflow_lightning import prune
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
    with pytest.raises(ValueError, match=r"dimension 1 of '0.weight' \(8, 3, 3, 3\).*exclude=\('0.weight',\)"):
        prune(model, 0.5, pattern="2:4")
    assert (model[1].weight != 0).all()
    prune(model, 0.5, pattern="2:4", exclude=("0.weight",))


def test_ties_go_by_position():
    layer = nn.Linear(4, 1)
    nn.init.ones_(layer.weight)
    assert prune(layer, 0.5, pattern="2:4")["weight"].tolist() == [[False, False, True, True]]
