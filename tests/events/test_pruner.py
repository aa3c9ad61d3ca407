"""A Pruner prunes and repairs whenever it is told to, with or without a training."""

import copy
import pickle

import pytest
import torch
from helpers import Module, images, selected_size, zeros
from torch import nn
from zoo.convolutional import small_net

from reflow_lightning import OneShot, Pruner, Reflow
from reflow_lightning.calibration import Moments
from reflow_lightning.events.event import prune_and_repair
from reflow_lightning.events.plan import Plan
from reflow_lightning.pruning.spec import PruneSpec
from reflow_lightning.running.forward import default_forward

BATCHES = list(images(32).split(16))
SIZE = selected_size(small_net())


def same(first, second):
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_it_does_what_reflow_does_without_a_training():
    model = small_net()
    other = copy.deepcopy(model)
    event = Pruner(0.7, calibration_batches=2).apply(model, BATCHES)
    assert same(model, other) is False
    Reflow(0.7, calibration_batches=2).apply(other, BATCHES)
    assert same(model, other)
    assert zeros(model) == round(0.7 * SIZE)
    assert set(event.signal) == {"dense", "pruned", "repaired"}


def test_its_keywords_are_one_spec():
    pruner = Pruner(0.9, criterion="random", include="layer1.*", min_kept=0.01)
    assert pruner.spec == PruneSpec(criterion="random", include=("layer1.*",), min_kept=0.01)


def test_applied_again_it_keeps_to_its_zeros_and_to_one_event_that_can_be_undone():
    model, pruner = small_net(), Pruner(0.5, calibration_batches=2, monitor=False)
    first = pruner.apply(model, BATCHES)
    masks = pruner.masks
    second = pruner.apply(model, BATCHES)
    assert pruner.masks == masks
    assert (first.signal, second.signal) == ({}, {})
    assert pruner.events[0].calibration.before is None
    assert pruner.events[1] is second


def test_what_fails_on_another_model_leaves_the_masks_of_the_first():
    first, second, pruner = small_net(), small_net(), Pruner(0.5, calibration_batches=2)
    pruner.apply(first, BATCHES)
    masks, before = pruner.masks, copy.deepcopy(second)
    torch.nn.init.constant_(second[0].weight, float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        pruner.apply(second, BATCHES)
    assert pruner.masks == masks
    assert not zeros(second)
    assert same(second[1:], before[1:])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"sparsity": 1.0}, r"sparsity=1.0 is outside \[0, 1\)"),
        ({"criterion": "size"}, "criterion='size' is unknown"),
        ({"repair": "magic"}, "repair='magic' is unknown"),
        ({"pattern": "2:4"}, "sparsity=0.4 is below the 0.5 that pattern='2:4' prunes"),
        ({"calibration_batches": 0}, "calibration_batches=0 must be a whole number"),
        ({"monitor": "yes"}, "monitor='yes' must be True or False"),
        ({"seed": "a"}, "seed='a' must be a whole number"),
    ],
)
def test_arguments_are_checked_at_once(options, text):
    with pytest.raises(ValueError, match=text):
        Pruner(**{"sparsity": 0.4} | options)


def test_it_reads_as_the_call_that_made_it():
    assert repr(Pruner(0.9)) == "Pruner(0.9)"
    assert repr(Pruner(0.9, pattern="2:4", exclude="head.*")) == "Pruner(0.9, pattern='2:4', exclude=('head.*',))"
    assert repr(Reflow(0.9, schedule=OneShot(epoch=3), monitor=False, calibration_data="val", seed=4)) == (
        "Reflow(0.9, schedule=OneShot(epoch=3), calibration_data='val', monitor=False, seed=4)"
    )


def test_it_can_be_copied_and_sent_to_another_process():
    pruner = Pruner(0.5, calibration_batches=2)
    pruner.apply(small_net(), BATCHES)
    for other in (copy.deepcopy(pruner), pickle.loads(pickle.dumps(pruner))):
        assert other.masks == pruner.masks
        assert repr(other) == repr(pruner)


@pytest.mark.parametrize("averages", [0, 2])
def test_a_repair_is_asked_once_whether_it_compares_with_the_dense_network(averages):
    asked = []

    class Asked(Moments):
        def needs_reference(self, model):
            asked.append(model)
            return True

    model = Module().net
    copies = [small_net() for _ in range(averages)]
    plan = Plan(PruneSpec(), Asked(), lambda: BATCHES, default_forward, 2, averages=copies)
    event, _ = prune_and_repair(model, 0.5, plan)
    assert asked == [model]
    assert event.calibration.repaired


class Narrow(nn.Module):
    """Its first layer has by far the smallest weights, all of which go."""

    def __init__(self):
        super().__init__()
        wide = [nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU()]
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), *wide, nn.Linear(16, 2))
        with torch.no_grad():
            self.layers[0].weight.mul_(1e-4)

    def forward(self, x):
        return self.layers(x)


@pytest.mark.parametrize("repair", ["auto", "reconstruct", "reselect", ["reconstruct", "align"]])
@pytest.mark.parametrize("steps", [1, 3])
def test_behind_an_empty_layer_repairs_do_no_harm_and_one_warning_names_it(repair, steps):
    torch.manual_seed(0)
    model, batches = Narrow(), list(torch.randn(512, 8).split(64))
    for batch in batches:
        model(batch)
    largest = max(float(parameter.detach().abs().max()) for parameter in model.parameters())
    with pytest.warns(UserWarning, match="leaves no weight in") as told:
        Pruner(0.5, repair=repair, steps=steps, monitor=False).apply(model.eval(), batches)
    assert max(float(parameter.detach().abs().max()) for parameter in model.parameters()) < 10 * largest
    assert sum("leaves no weight in layers.0.weight" in str(warning.message) for warning in told) == 1


@pytest.mark.parametrize("repair", ["reselect", "best", ["reselect", "align"]])
def test_a_bias_that_was_pruned_by_name_stays_zero_under_repairs_that_move_zeros(repair):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    pruner = Pruner(0.5, include=["*", "0.bias"], repair=repair, budget=5 if repair == "best" else None, monitor=False)
    with pytest.warns(UserWarning, match="filled weights that are pruned, in '0.bias'"):
        pruner.apply(model, list(torch.randn(256, 8).split(32)))
    kept = int((model[0].weight != 0).sum() + (model[0].bias != 0).sum() + (model[2].weight != 0).sum())
    assert kept <= sum(int(mask.sum()) for mask in pruner.masks.values())
    assert pruner.masks.sparsity == pytest.approx(0.5, abs=0.01)
