import copy
import random

import pytest
import torch
from helpers import everything
from scenarios.thinned import bits, make, zeros
from torch import nn
from zoo import networks
from zoo.linear import mlp

from reflow_lightning import calibrate
from reflow_lightning.calibration import Align

ALIGN = Align(steps=30)  # what it must leave alone does not depend on their number
WRITING = ["moments", "reconstruct", "auto", ALIGN]
REPAIRS = ["batchnorm", *WRITING, ["moments", "batchnorm"], ["reconstruct", "moments"]]


pytestmark = pytest.mark.filterwarnings("ignore:.*has no BatchNorm layer", "ignore:calibrate left alone")


@pytest.mark.parametrize("repair", REPAIRS, ids=str)
@pytest.mark.parametrize("name", networks("repair"))
def test_undo_is_exact_and_zeros_stay_zero_and_nothing_else_is_touched(name, repair):
    model, dense, batches = make(name, 2)
    before, of_dense, zero = bits(model), bits(dense), zeros(model)
    model.train()
    next(iter(model.children())).eval()
    next(model.parameters()).requires_grad_(False)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    kept, identities = everything(model), [id(parameter) for parameter in model.parameters()]
    result = calibrate(model, batches, repair=repair, reference=dense, max_batches=2)
    assert bool(result.repaired) == (bits(model) != before)
    assert set(result.how) == set(result.repaired)
    assert not set(result.skipped) & set(result.repaired)
    assert result.batches == (2 if result.repaired else 0)
    for weight, was_zero in zeros(model).items():
        assert bool(was_zero[zero[weight]].all())
    after = everything(model)
    assert {key for key in kept if kept[key] != after[key]} <= {"values"}
    assert [id(parameter) for parameter in model.parameters()] == identities
    assert all(bool((parameter.grad == 1).all()) for parameter in model.parameters())
    assert bits(dense) == of_dense
    result.undo()
    assert bits(model) == before


@pytest.mark.parametrize("repair", WRITING, ids=str)
def test_undo_survives_a_move(repair):
    model, dense, batches = make("batchnorm", 2)
    before = bits(model)
    result = calibrate(model, batches, repair=repair, reference=dense, max_batches=2)
    model.double().float()  # replaces every tensor
    result.undo()
    assert bits(model) == before


@pytest.mark.parametrize("repair", WRITING, ids=str)
@pytest.mark.parametrize("name", ["batchnorm", "attention", "gru", "layernorm"])
@pytest.mark.parametrize("fails_at", [1, 2, 4, 7, 11])
def test_a_forward_pass_that_raises_leaves_everything_as_it_was(name, repair, fails_at):
    model, dense, batches = make(name, 2)
    model.train()
    before, calls = everything(model), []

    def forward(network, batch):
        calls.append(1)
        torch.rand(3), random.random()
        if len(calls) == fails_at:
            raise ZeroDivisionError
        return network(batch)

    try:
        calibrate(model, batches, repair=repair, reference=dense, max_batches=2, forward=forward).undo()
        assert len(calls) < fails_at  # it was over before
    except ZeroDivisionError:
        assert len(calls) == fails_at
    assert everything(model) == before
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("repair", WRITING, ids=str)
@pytest.mark.parametrize("name", ["mlp", "batchnorm", "attention", "gru"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_batch_that_is_not_finite_is_an_error_and_changes_nothing(name, repair, value):
    model, dense, batches = make(name, 2)
    batches[1][0] = value
    before = everything(model)
    with pytest.raises(ValueError, match="NaN"):
        calibrate(model, batches, repair=repair, reference=dense, max_batches=2)
    assert everything(model) == before


@pytest.mark.parametrize("repair", WRITING, ids=str)
def test_frozen_weights_are_repaired_like_others(repair):
    model, dense, batches = make("mlp", 2)
    frozen = copy.deepcopy(model).requires_grad_(False)
    for network in (model, frozen):
        calibrate(network, batches, repair=repair, reference=dense, max_batches=2)
    assert bits(model) == bits(frozen)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


@pytest.mark.parametrize(("name", "repair"), [("mlp", "reconstruct"), ("gru", "moments"), ("batchnorm", "auto")])
def test_batches_that_can_be_read_only_once_are_an_error_where_several_passes_are_needed(name, repair):
    model, dense, batches = make(name, 2)
    before = everything(model)
    with pytest.raises(ValueError, match="batches=generator can be read only once: pass a list or a loader"):
        calibrate(model, (batch for batch in batches), repair=repair, reference=dense, max_batches=2)
    assert everything(model) == before


def test_one_pass_is_enough_for_moments_where_a_network_feeds_forward():
    model, dense, batches = make("layernorm", 2)
    calibrate(model, (batch for batch in batches), repair="moments", reference=dense, max_batches=2)


def other(width):
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 3))


@pytest.mark.parametrize("repair", WRITING, ids=str)
def test_a_dense_network_that_does_not_fit_is_an_error_before_anything_is_read(repair):
    model, wide = other(4), other(5)
    sharing = nn.Sequential(other(4)[0], nn.ReLU(), model[2])
    before = everything(model)
    cases = [
        (model, "reference is the pruned model itself"),
        (wide, "reference=Sequential lacks layer '0', or has another there"),
        (sharing, "reference shares the parameters of '2' with the pruned model: pass a deep copy"),
        (nn.ReLU(), "reference=ReLU lacks layer '0'"),
        (copy.deepcopy(model).to("meta"), "reference is on meta, the model on cpu: move it there"),
    ]
    for reference, message in cases:
        with pytest.raises(ValueError, match=message):
            calibrate(model, [None], repair=repair, reference=reference, max_batches=1)
    assert everything(model) == before


@pytest.mark.parametrize("repair", ["moments", "reconstruct", ALIGN], ids=str)
def test_without_the_dense_network_the_error_says_how_to_get_one(repair):
    with pytest.raises(ValueError, match=r"reference=None, but repair by .* reference=copy.deepcopy\(model\)"):
        calibrate(mlp(), [torch.randn(4, 8)], repair=repair, max_batches=1)


def test_warnings_that_are_errors_leave_the_model_as_it_was():
    model, dense, batches = make("mlp", 2)
    for network in (model, dense):
        network.add_module("unused", nn.Linear(2, 2))
        network.forward = lambda x, layers=tuple(network)[:-1]: nn.Sequential(*layers)(x)
    before = bits(model)
    for repair in ("moments", "reconstruct"):  # a copy, as "align" makes, would run the layers of the original
        with pytest.warns(UserWarning, match="left alone 'unused': no batch reached it"):
            calibrate(model, batches, repair=repair, reference=dense, max_batches=2).undo()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("warnings.warn", lambda message, **_: (_ for _ in ()).throw(UserWarning(message)))
            with pytest.raises(UserWarning):
                calibrate(model, batches, repair=repair, reference=dense, max_batches=2)
        assert bits(model) == before
