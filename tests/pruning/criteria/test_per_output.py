"""Weights compared within each output: Wanda as its paper has it, and any other criterion."""

import copy

import pytest
import torch
from scenarios.gradients import make, weights_of
from torch import nn

from reflow_lightning.pruning import PerOutput, Wanda, prune


def x(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).double()


def of_the_paper(weight, inputs, sparsity):
    """Which weights stay, by the three lines of the paper's algorithm."""
    metric = weight.abs() * inputs.norm(p=2, dim=0)
    goes = metric.argsort(dim=1, stable=True)[:, : int(weight.shape[1] * sparsity)]
    return torch.ones_like(weight, dtype=torch.bool).scatter(1, goes, False)


@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.75])
def test_by_name_it_prunes_what_the_paper_prunes(sparsity):
    layers, batches = [nn.Linear(16, 8).double(), nn.Linear(8, 24).double()], [x(5, 7, 16), x(3, 7, 16)]
    with torch.no_grad():
        layers[0].weight.mul_(100)  # layers have no scale in common
    model = nn.Sequential(layers[0], nn.GELU(), layers[1])
    inputs = torch.cat([batch.flatten(0, 1) for batch in batches])
    between = model[:2](inputs)
    masks = prune(copy.deepcopy(model), sparsity, criterion="wanda", batches=batches, max_batches=2)
    assert torch.equal(masks["0.weight"], of_the_paper(layers[0].weight, inputs, sparsity))
    assert torch.equal(masks["2.weight"], of_the_paper(layers[1].weight, between, sparsity))


def test_the_outputs_of_a_gpt2_are_the_columns_of_its_weights():
    conv1d = pytest.importorskip("transformers.pytorch_utils").Conv1D
    layer, batch = conv1d(6, 8).double(), x(4, 5, 8)
    mask = prune(layer, 0.5, criterion="wanda", batches=[batch], max_batches=1, forward=nn.Module.__call__)["weight"]
    assert torch.equal(mask.T, of_the_paper(layer.weight.T, batch.flatten(0, 1), 0.5))


def test_compared_with_all_it_empties_the_layer_of_small_weights():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    with torch.no_grad():
        model[1].weight.mul_(1e-4)
    kept = {
        group: prune(copy.deepcopy(model), 0.5, criterion=Wanda(group), batches=[x(9, 8).float()], max_batches=1)
        for group in ("all", "output")
    }
    assert kept["all"].sparsities == {"0.weight": 0.0, "1.weight": 1.0}
    assert kept["output"].sparsities == {"0.weight": 0.5, "1.weight": 0.5}


def test_another_group_is_an_error():
    with pytest.raises(ValueError, match="group='layer' must be 'output', as in the paper, or 'all'"):
        Wanda("layer")


@pytest.mark.parametrize("criterion", ["magnitude", "wanda"])
@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.9])
def test_per_output_prunes_every_row_alike(criterion, sparsity):
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(24, 10)).double()
    batches = [x(3, 4, 4, 4)]
    masks = prune(copy.deepcopy(model), sparsity, criterion=PerOutput(criterion), batches=batches, max_batches=1)
    for mask in masks.values():
        pruned = (~mask).flatten(1).sum(1)
        assert (pruned - sparsity * mask[0].numel()).abs().max() <= 1


def test_per_output_keeps_the_largest_of_each_row_whatever_its_scale():
    layer = nn.Linear(4, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2, 3, 4], [400, 300, 200, 100], [0.1, 0.3, 0.2, 0.4]]))
    kept = prune(layer, 0.5, criterion=PerOutput("magnitude"))["weight"].int().tolist()
    assert kept == [[0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 0, 1]]


@pytest.mark.parametrize("groups", [1, 2])
def test_an_output_of_a_transposed_convolution_is_a_second_index(groups):
    layer = nn.ConvTranspose1d(4, 4, 3, groups=groups)
    mask = prune(layer, 0.5, criterion=PerOutput("magnitude"))["weight"]
    by_output = mask.view(groups, 4 // groups, 4 // groups, 3).transpose(1, 2).reshape(4, -1)
    assert by_output.sum(1).tolist() == [by_output.shape[1] // 2] * 4


def test_per_output_hands_on_the_update_of_woodfisher():
    model, batch = make("small_net")
    before = weights_of(copy.deepcopy(model))
    masks = prune(model, 0.5, criterion=PerOutput("woodfisher"), batches=[batch], max_batches=1)
    after = weights_of(model)
    assert any(not torch.equal(after[name][mask], before[name][mask]) for name, mask in masks.items())
