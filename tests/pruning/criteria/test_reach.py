"""What no batch reaches is not taken for worthless: it is named, and nothing is pruned."""

import copy
import warnings
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional
from zoo.unreached import REACHED, UNREACHED, ZERO, Parted, batches_of

from reflow_lightning import Pruner, prune
from reflow_lightning.pruning import Fisher, PerOutput, Wanda, WoodFisher, uniform
from reflow_lightning.pruning.criteria.gradient_criterion import GradientCriterion
from reflow_lightning.pruning.criteria.reach import GRADIENT, Reach


@dataclass(frozen=True)
class Mine(GradientCriterion):
    """A criterion of a user's."""

    def term(self, gradient, samples):
        return gradient.abs_().mul_(samples)

    def score(self, mean, weight):
        return mean.mul_(weight.abs())


class ByFisher:
    """An allocation of a user's, by a criterion with gradients."""

    def estimate(self, model, weights, batches, forward, /):
        Fisher().estimate(model, weights, batches, forward)
        return uniform


CRITERIA = ("fisher", "taylor", "snip", "woodfisher", WoodFisher(gradients="batch"), PerOutput("fisher"), Mine())


def pruned(model, criterion="fisher", sizes=(4, 2), **options):
    options = {"batches": batches_of(*sizes), "max_batches": len(sizes), **options}
    return prune(model, 0.5, criterion=criterion, **options)


@pytest.mark.parametrize("how", UNREACHED)
@pytest.mark.parametrize("criterion", CRITERIA, ids=str)
def test_a_part_that_no_gradient_reaches_is_named_and_nothing_is_changed(how, criterion):
    model = Parted(how)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"no gradient .* reached 'part.weight', .*exclude=\['part.weight'\]"):
        pruned(model, criterion)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert set(pruned(model, criterion, exclude="part.*")) == {"body.weight", "head.weight"}


@pytest.mark.parametrize("how", REACHED)
@pytest.mark.parametrize("criterion", [*CRITERIA, "wanda"], ids=str)
def test_a_part_that_some_gradient_reaches_is_pruned(how, criterion):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*leaves no weight in.*")
        assert "part.weight" in pruned(Parted(how), criterion)


@pytest.mark.parametrize("how", ZERO)
def test_a_gradient_of_zero_is_one_and_a_warning_names_the_weight(how):
    with pytest.warns(UserWarning, match=r"every gradient that reached 'part.weight' was exactly zero"):
        assert pruned(Parted(how)).sparsities["part.weight"] > 0.9


@pytest.mark.parametrize("how", ["in train mode only", "never called"])
@pytest.mark.parametrize("criterion", ["wanda", PerOutput("wanda")], ids=str)
def test_wanda_takes_no_layer_for_worthless_that_it_did_not_see(how, criterion):
    with pytest.raises(ValueError, match=r"no input of any batch reached 'part.weight', .*in train mode only"):
        pruned(Parted(how), criterion)
    assert "part.weight" in pruned(Parted("under no_grad"), criterion)  # it takes no gradients


def test_wanda_sees_neither_a_weight_that_is_used_without_its_layer_nor_a_layer_that_gets_no_sample():
    layers = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 3)})
    for forward in (
        lambda m, batch: functional.linear(m["a"](batch[0]), m["b"].weight),
        lambda m, batch: m["a"](batch[0]) + m["b"](batch[0][:0]).sum(),
    ):
        with pytest.raises(ValueError, match=r"no input of any batch reached 'b.weight'"):
            pruned(layers, "wanda", forward=forward)


def test_wanda_warns_of_a_layer_that_is_given_zeros_alone():
    layers = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 3)})
    with pytest.warns(UserWarning, match="every input that reached 'b.weight' was exactly zero"):
        pruned(layers, "wanda", forward=lambda m, batch: m["b"](m["a"](batch[0]) * 0))


def test_an_allocation_that_asks_a_criterion_fails_with_it():
    with pytest.raises(ValueError, match=r"no gradient of any batch reached 'part.weight'"):
        pruned(Parted("never called"), "magnitude", allocation=ByFisher())


def test_an_event_leaves_the_network_as_it_was():
    model = Parted("detached")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"no gradient of any batch reached 'part.weight'"):
        Pruner(0.5, criterion="taylor", calibration_batches=1).apply(model, batches_of(4))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_few_names_stand_for_many():
    model = nn.ModuleList(nn.Linear(4, 3) for _ in range(9))
    named = r"'1.weight', '2.weight', '3.weight' and 5 more, .*exclude=\['1.weight', \.\.\."
    with pytest.raises(ValueError, match=named):
        pruned(model, forward=lambda m, batch: m[0](batch[0]))


def test_without_any_batch_nothing_is_said_of_reach():
    Reach({"weight": torch.ones(1)}).check(GRADIENT)
    with pytest.raises(ValueError, match="gave no batch for scoring"):
        pruned(Parted("never called"), Wanda(), batches=[], max_batches=1)
