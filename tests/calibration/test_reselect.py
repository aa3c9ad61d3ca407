"""Least squares that choose anew which weights stay, in networks of many kinds."""

import copy
from dataclasses import replace

import pytest
import torch
from helpers import Module, loader, trainer
from scenarios.thinned import bits, make, outputs, plain, zeros
from torch import nn
from torch.optim.swa_utils import AveragedModel

from reflow_lightning import Masks, OneShot, Pruner, Reflow, calibrate, find_sparsity, prune
from reflow_lightning.calibration import InTurn, Reselect, ThenBatchNorm
from reflow_lightning.calibration.repair import keeping_zeros, moves_zeros

NAMES = ["mlp", "layernorm", "convolutions", "groupnorm", "batchnorm", "attention", "attention_of_other_sizes", "gru"]


def kept(model):
    return {name: int((~zero).sum()) for name, zero in zeros(model).items()}


def misfit(model, dense, batches):
    """The mean square error of what each map puts out, over its variance, with all before it repaired."""
    pairs = zip(outputs(model, batches).values(), outputs(dense, batches).values(), strict=True)
    return sum(float((x - y).square().mean() / y.var().clamp(min=1e-12)) for x, y in pairs)


@pytest.mark.parametrize("name", NAMES)
def test_it_moves_zeros_and_comes_closer_than_least_squares(name):
    model, dense, batches = make(name, 4, size=64)
    fitted, before = copy.deepcopy(model), zeros(model)
    calibrate(model, batches, repair="reselect", reference=dense, max_batches=4)
    calibrate(fitted, batches, repair="reconstruct", reference=dense, max_batches=4)
    assert kept(model) == {name: int((~zero).sum()) for name, zero in before.items()}
    assert any((zero != before[name]).any() for name, zero in zeros(model).items())
    assert misfit(model, dense, batches) < misfit(fitted, dense, batches)


@pytest.mark.parametrize("name", NAMES)
def test_undo_puts_everything_back(name):
    model, dense, batches = make(name, 2)
    before = bits(model)
    result = calibrate(model, batches, repair="reselect", reference=dense, max_batches=2)
    assert bits(model) != before
    result.undo()
    assert bits(model) == before


def test_what_is_zero_in_the_dense_network_stays_zero():
    dense = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6))
    causal = torch.ones(8, 6).tril().bool()
    dense[0].weight.data *= causal
    model = copy.deepcopy(dense)
    prune(model, 0.5)
    calibrate(model, [torch.randn(64, 6)], repair="reselect", reference=dense, max_batches=1)
    assert not model[0].weight[~causal].any()


def test_without_a_zero_it_is_least_squares():
    _, dense, batches = make("batchnorm", 2)
    models = [copy.deepcopy(dense) for _ in range(2)]
    for model, repair in zip(models, ("reselect", "reconstruct"), strict=True):
        with torch.no_grad():
            model[0].weight.mul_(0.5)
        calibrate(model, batches, repair=repair, reference=dense, max_batches=2)
    assert bits(models[0]) == bits(models[1])


@pytest.mark.parametrize("steps", [1, 3])
def test_the_masks_of_an_event_follow(steps):
    dense, batches = make("batchnorm", 3)[1:]
    plainly, moved = Pruner(0.8, repair="none", monitor=False), Pruner(0.8, repair="reselect", steps=steps)
    plainly.apply(copy.deepcopy(dense), batches)
    event = moved.apply(dense, batches)
    assert {name: bool((zero == ~moved.masks[name]).all()) for name, zero in zeros(dense).items()} == dict.fromkeys(
        moved.masks, True
    )
    assert event.sparsity == moved.masks.sparsity == plainly.masks.sparsity
    assert event.sparsities == plainly.masks.sparsities
    assert moved.masks != plainly.masks


def test_an_event_that_fails_leaves_the_network_dense():
    dense, batches = make("batchnorm", 3)[1:]
    before = bits(dense)

    def fails(*_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Pruner(0.8, repair=["reselect", fails], monitor=False, calibration_batches=3).apply(dense, batches)
    assert bits(dense) == before


def test_a_second_event_prunes_further_from_the_zeros_that_were_moved():
    dense, batches = make("mlp", 3)[1:]
    pruner = Pruner(0.5, repair="reselect", monitor=False, calibration_batches=3)
    pruner.apply(dense, batches)
    first = pruner.masks
    pruner.sparsity = 0.8
    pruner.apply(dense, batches)
    assert pruner.masks.sparsity == pytest.approx(0.8, abs=0.01)
    assert all(not (after & ~first[name]).any() for name, after in pruner.masks.items())


def test_a_training_goes_on_under_the_zeros_that_were_moved():
    module, reflow = Module(), Reflow(0.8, schedule=OneShot(), repair="reselect", calibration_batches=2, monitor=False)
    trainer(reflow, max_epochs=2).fit(module, loader())
    for name, mask in reflow.masks.items():
        assert ((module.get_parameter(name) != 0) <= mask).all()
    assert reflow.masks.sparsity == pytest.approx(0.8, abs=0.01)


def test_a_search_returns_the_masks_that_hold():
    dense, batches = make("mlp", 3)[1:]
    search = find_sparsity(dense, batches, lambda _: 1.0, max_drop=0.1, repair="reselect", max_batches=3, tolerance=0.2)
    assert all(
        ((parameter != 0) == search.masks[name]).all()
        for name, parameter in dense.named_parameters()
        if name in search.masks
    )


@pytest.mark.parametrize("arguments", [{"pattern": "2:4"}, {"tied": {"1.*": "0.*"}}])
def test_where_more_is_asked_of_the_zeros_it_is_least_squares(arguments):
    models = [nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))]
    models.append(copy.deepcopy(models[0]))
    batches = [torch.randn(64, 8)]
    for model, repair in zip(models, ("reselect", "reconstruct"), strict=True):
        pruner = Pruner(0.5, repair=repair, monitor=False, calibration_batches=1, **arguments)
        pruner.apply(model, batches)
    assert bits(models[0]) == bits(models[1])


@pytest.mark.parametrize("repair", [Reselect(0.1), ThenBatchNorm(Reselect(0.1)), InTurn([Reselect(0.1)])])
def test_what_holds_it_says_that_zeros_move_and_what_stands_for_it(repair):
    assert moves_zeros(repair)
    assert "Reconstruct(ridge=0.1" in repr(keeping_zeros(repair))
    assert not moves_zeros(keeping_zeros(repair))


@pytest.mark.parametrize("ridge", [0, -1, float("nan"), "much", True])
def test_a_ridge_that_is_no_positive_number_is_refused(ridge):
    with pytest.raises(ValueError, match=r"ridge=.* must be a positive number"):
        Reselect(ridge=ridge)


def test_masks_follow_zeros_that_moved_and_no_others():
    model, dense, batches = make("mlp", 3)
    masks = Masks({name: ~zero for name, zero in zeros(model).items()})
    calibrate(model, batches, repair="reselect", reference=dense, max_batches=3)
    after = masks.moved(model)
    assert after.sparsities == masks.sparsities
    assert all(((parameter != 0) == after[name]).all() for name, parameter in model.named_parameters() if name in after)
    with torch.no_grad():
        model.get_parameter(next(iter(masks))).fill_(1.0)
    with pytest.raises(ValueError, match=r"more weights other than zero than its mask keeps: masks can be moved only"):
        masks.moved(model)


def test_the_forward_pass_of_the_model_is_what_is_fitted():
    model, dense, batches = make("mlp", 3)
    before = misfit(model, dense, batches)
    Reselect()(model, batches, plain, dense)
    assert misfit(model, dense, batches) < before


@pytest.mark.parametrize("steps", [1, 3])
def test_an_average_of_the_weights_has_the_zeros_of_the_model(steps):
    dense, batches = make("batchnorm", 3)[1:]
    average = AveragedModel(dense).module
    pruner = Pruner(0.8, repair="reselect", steps=steps, monitor=False, calibration_batches=3)
    plan = replace(pruner.plan(lambda: iter(batches)), averages=[average])
    pruner.carry_out(dense, 0.8, plan)
    assert {n: z.tolist() for n, z in zeros(dense).items()} == {n: z.tolist() for n, z in zeros(average).items()}


def test_grouped_convolutions_keep_their_numbers():
    dense = nn.Sequential(nn.Conv2d(8, 16, 3, groups=4), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=16), nn.Flatten())
    pruner = Pruner(0.7, repair="reselect", monitor=False, calibration_batches=1)
    model = copy.deepcopy(dense)
    pruner.apply(model, [torch.randn(64, 8, 6, 6)])
    assert all(((model.get_parameter(name) != 0) == mask).all() for name, mask in pruner.masks.items())
    assert pruner.masks.sparsity == pytest.approx(0.7, abs=1e-3)


def test_a_saturated_unit_does_no_harm():
    model = nn.Sequential(nn.Linear(16, 32), nn.SiLU(), nn.Linear(32, 8))
    model[0].bias.data[3] = -60.0
    Pruner(0.8, allocation="uniform", repair="reselect", monitor=False, calibration_batches=1).apply(
        model, [torch.randn(256, 16)]
    )
