"""Several prunings at one moment: one event, whose masks lie within each other."""

import copy

import pytest
import torch
from helpers import Module, loader, trainer
from scenarios.thinned import bits
from torch import nn

from reflow_lightning import Gradual, Pruner, Reflow, find_sparsity
from reflow_lightning.calibration import Calibration


def network():
    torch.manual_seed(0)
    layers = [layer for _ in range(4) for layer in (nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(16, 4)).eval()


BATCHES = [torch.randn(64, 16) for _ in range(3)]


def zeros(model):
    return {name: parameter == 0 for name, parameter in model.named_parameters() if parameter.ndim > 1}


def pruned_share(weight):
    return float((weight == 0).float().mean())


class Looking:
    """A repair that does nothing but note which weights are zero."""

    writes_weights = False

    def __init__(self):
        self.seen = []

    def needs_reference(self, model):
        return False

    def __call__(self, model, batches, forward, reference):
        self.seen.append({name: mask.clone() for name, mask in zeros(model).items()})
        return Calibration((), {}, sum(1 for _ in batches), 0.0)


@pytest.mark.parametrize(
    ("arguments", "reached"), [({}, [0.438, 0.684, 0.822, 0.9]), ({"pattern": "2:4"}, [0.25, 0.5])]
)
def test_each_step_is_repaired_and_goes_on_from_the_last(arguments, reached):
    model, looking = network(), Looking()
    pruner = Pruner(
        reached[-1], steps=4, repair=looking, calibration_batches=3, monitor=False, exclude="12.*", **arguments
    )
    event = pruner.apply(model, BATCHES)
    assert [round(step.sparsity, 2) for step in event.steps] == [round(share, 2) for share in reached]
    assert len(looking.seen) == len(reached)
    for before, after in zip(looking.seen, looking.seen[1:], strict=False):
        assert all(not (before[name] & ~after[name]).any() for name in before)
    assert event.sparsity == pytest.approx(reached[-1], abs=1e-3)
    assert event.seconds["repair"] == sum(step.repair for step in event.steps)
    assert len(pruner.events) == 1


def test_one_step_is_what_was_always_done():
    models = [network(), network()]
    for model, arguments in zip(models, ({}, {"steps": 1}), strict=True):
        Pruner(0.8, repair="reconstruct", calibration_batches=3, **arguments).apply(model, BATCHES)
    assert bits(models[0]) == bits(models[1])


def test_several_steps_come_closer_to_the_dense_network():
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)).eval()
    batches = [torch.randn(256, 32) @ torch.randn(32, 32) for _ in range(4)]

    def error(steps):
        model = copy.deepcopy(dense)
        Pruner(0.8, steps=steps, repair="reconstruct", calibration_batches=4, monitor=False).apply(model, batches)
        return sum(float((model(x) - dense(x)).square().mean()) for x in batches)

    assert error(8) < 0.9 * error(1)


def test_the_signal_is_that_before_between_and_after():
    model, stages = network(), []
    pruner = Pruner(0.9, steps=3, repair="batchnorm", calibration_batches=3)
    pruner.listeners.append(
        lambda stage, module: stages.append((stage, round(float((module[0].weight == 0).float().mean()))))
    )
    event = pruner.apply(model, BATCHES)
    assert stages == [("dense", 0), ("pruned", 1), ("repaired", 1)]
    assert set(event.signal) == {"dense", "pruned", "repaired"}


@pytest.mark.parametrize("fails_in", [1, 2, 3])
def test_a_failure_in_any_step_undoes_all(fails_in):
    model, calls = network(), []
    before = bits(model)

    def failing(network, batches, forward, reference):
        calls.append(1)
        if len(calls) == fails_in:
            raise KeyboardInterrupt
        return Calibration((), {}, 0, 0.0)

    pruner = Pruner(0.9, steps=3, repair=failing, calibration_batches=3)
    with pytest.raises(KeyboardInterrupt):
        pruner.apply(model, BATCHES)
    assert bits(model) == before
    assert pruner.masks is None


@pytest.mark.parametrize("criterion", ["wanda", "random"])
def test_a_criterion_is_asked_anew_in_each_step(criterion):
    model = network()
    event = Pruner(0.9, steps=3, criterion=criterion, calibration_batches=3).apply(model, BATCHES)
    assert [step.sparsity for step in event.steps] == sorted(step.sparsity for step in event.steps)
    assert event.sparsity == pytest.approx(0.9, abs=1e-3)


def test_a_later_event_goes_on_from_the_zeros_of_before():
    model, pruner = network(), Pruner(0.5, steps=2, repair="batchnorm", calibration_batches=3)
    pruner.apply(model, BATCHES)
    before = zeros(model)
    pruner.sparsity = 0.8
    event = pruner.apply(model, BATCHES)
    assert len(event.steps) == 2
    assert event.steps[0].sparsity > 0.5
    assert all(not (before[name] & ~after).any() for name, after in zeros(model).items())


def test_a_training_prunes_in_steps_and_keeps_the_zeros():
    module, reflow = Module(), Reflow(0.8, steps=3, repair="reconstruct", calibration_batches=3, monitor=False)
    trainer(reflow, max_epochs=1).fit(module, loader())
    assert [len(event.steps) for event in reflow.events] == [3]
    assert all(not module.get_parameter(name)[~mask].any() for name, mask in reflow.masks.items())


def test_averages_are_pruned_and_repaired_in_the_same_steps():
    from dataclasses import replace

    model, pruner = network(), Pruner(0.8, steps=3, repair="reconstruct", calibration_batches=3, monitor=False)
    average = copy.deepcopy(model)
    plan = replace(pruner.plan(lambda: BATCHES), averages=[average])
    pruner.carry_out(model, 0.8, plan)
    assert bits(average) == bits(model)


def test_a_schedule_over_the_training_has_no_steps_at_one_moment():
    with pytest.raises(ValueError, match=r"steps=4 prunes several times at one moment, but schedule=Gradual"):
        Reflow(0.9, steps=4, schedule=Gradual())


@pytest.mark.parametrize("steps", [0, True, 2.0])
def test_steps_are_a_whole_number(steps):
    with pytest.raises(ValueError, match=r"steps=.* must be a whole number"):
        Pruner(0.9, steps=steps)


def test_a_search_tries_sparsities_in_steps():
    dense = network()
    targets = [dense(x) for x in BATCHES]

    def score(model):
        with torch.no_grad():
            return -sum(float((model(x) - y).square().mean()) for x, y in zip(BATCHES, targets, strict=True))

    found = [
        find_sparsity(
            network(), BATCHES, score, max_drop=0.02, repair="reconstruct", max_batches=3, steps=steps
        ).sparsity
        for steps in (1, 6)
    ]
    assert found[1] >= found[0]


def rescaled(model, batches, forward, reference):
    """A repair that makes the weights of one layer a hundred times as large, as a norm would allow."""
    with torch.no_grad():
        model[3].weight.mul_(100)
    return Calibration((), {}, sum(1 for _ in batches), 0.0)


@pytest.mark.parametrize("allocation", ["global", "lamp"])
def test_layers_share_as_the_dense_network_does_whatever_a_repair_makes_of_their_scale(allocation):
    once, stepwise = network(), network()
    for model, arguments in ((once, {"repair": "none"}), (stepwise, {"repair": rescaled, "steps": 4})):
        pruner = Pruner(0.9, monitor=False, allocation=allocation, calibration_batches=3, **arguments)
        pruner.apply(model, BATCHES)
    kept = [{name: int((~zero).sum()) for name, zero in zeros(model).items()} for model in (once, stepwise)]
    assert kept[0] == kept[1]


def test_within_a_layer_each_step_ranks_what_the_repair_left():
    def turned(model, batches, forward, reference):  # what was smallest is largest now
        with torch.no_grad():
            for layer in model[::3]:
                layer.weight.copy_(torch.where(layer.weight == 0, 0.0, 1 / layer.weight.abs().clamp(min=1e-6)))
        return Calibration((), {}, sum(1 for _ in batches), 0.0)

    models = [network(), network()]
    for model, repair in zip(models, ("none", turned), strict=True):
        Pruner(0.9, steps=4, repair=repair, monitor=False, calibration_batches=3).apply(model, BATCHES)
    assert any((a != b).any() for a, b in zip(*(zeros(model).values() for model in models), strict=True))
