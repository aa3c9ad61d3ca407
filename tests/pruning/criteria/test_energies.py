"""Sums of squares take the memory of one row where all outputs have the same inputs."""

import pytest
import torch
from torch import nn

from reflow_lightning.pruning.criteria.energies import ByEnergy, Energies
from reflow_lightning.pruning.criteria.wanda import Wanda


def test_sums_keep_the_shape_that_a_layer_gives():
    energies = Energies({"w": torch.ones(3, 2)})
    energies.add("w", torch.tensor([1.0, 4.0]))
    energies.add("w", torch.tensor([3.0, 0.0]))
    assert energies.everywhere()["w"].tolist() == [4, 4]


def test_sums_of_several_shapes_are_laid_out():
    energies = Energies({"w": torch.ones(2, 2)})
    energies.add("w", torch.tensor([1.0, 4.0]))
    energies.add("w", torch.tensor([[1.0], [2.0]]))
    assert energies.everywhere()["w"].tolist() == [[2, 5], [3, 6]]


@pytest.mark.parametrize("shape", [(3,), (1, 3, 2), (3, 3)])
def test_a_shape_that_does_not_fit_is_an_error(shape):
    with pytest.raises(ValueError, match=r"energies have shape .*, but the weight has \(3, 2\)"):
        Energies({"w": torch.ones(3, 2)}).add("w", torch.ones(shape))


def test_what_nothing_was_seen_of_has_no_scores():
    found = ByEnergy("it", Energies({"w": torch.ones(2)}).everywhere())
    with pytest.raises(ValueError, match="holds no scores for 'w'"):
        found("w", torch.ones(2))


def test_wanda_of_linear_layers_holds_a_row_of_each():
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4))
    weights = {name: model.get_parameter(name) for name in ("0.weight", "2.weight")}
    found = Wanda("all").estimate(model, weights, [torch.randn(5, 8)], nn.Module.__call__)
    assert {name: energy.shape for name, energy in found.energies.items()} == {"0.weight": (8,), "2.weight": (64,)}
