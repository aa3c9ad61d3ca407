"""An event holds the weights once more, whatever repairs them."""

import pytest
import torch
from peak import peak_bytes
from torch import nn

from reflow_lightning import Pruner
from reflow_lightning.calibration import BatchNormStatistics, Calibration, Moments, Reconstruct


def network():
    layers = [module for _ in range(10) for module in (nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(512, 4))


def batches():
    return [torch.randn(16, 512, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]


@pytest.mark.parametrize("repair", ["none", "batchnorm", "moments", "auto"])
def test_the_copy_that_is_put_back_is_the_one_that_is_compared_with(repair):
    model, data = network(), batches()
    weights = sum(parameter.nbytes for parameter in model.parameters())
    pruner = Pruner(0.8, repair=repair, monitor=False, calibration_batches=2)
    masks, one_layer = 0.25 * weights, 1.5 * 8 * 512 * 512  # which is worked on in float64
    assert peak_bytes(lambda: pruner.apply(model, data)) < weights + masks + one_layer


class Failing:
    """Changes the weights, and then fails."""

    restores_itself = True

    def __call__(self, model, batches, forward, reference):
        Moments()(model, batches, forward, reference)
        raise RuntimeError("no")


@pytest.mark.parametrize("repair", [Failing(), [Moments(), Failing()], [Reconstruct(), Failing()]])
def test_what_fails_after_a_repair_without_a_copy_is_undone_from_it(repair):
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="no"):
        Pruner(0.8, repair=repair, monitor=False, calibration_batches=2).apply(model, batches())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Trying(Moments):
    """Tries one repair, takes it back, and does another."""

    def __call__(self, model, batches, forward, reference):
        before = model[0].weight.clone()
        done = super().__call__(model, batches, forward, reference)
        assert not torch.equal(model[0].weight, before)
        done.undo()
        assert torch.equal(model[0].weight, before)
        result: Calibration = BatchNormStatistics()(model, batches, forward, reference)
        return result


def test_a_repair_of_ones_own_can_undo_another_within_an_event():
    event = Pruner(0.8, repair=Trying(), monitor=False, calibration_batches=2).apply(network(), batches())
    assert len(event.calibration.repaired) == 10


class WritingIntoTheReference:
    """Scales the dense network, fits the pruned one to it, and fails."""

    def __call__(self, model, batches, forward, reference):
        with torch.no_grad():
            reference[0].weight.mul_(2)
        raise RuntimeError("no")


@pytest.mark.parametrize("repair", [WritingIntoTheReference(), [Moments(), WritingIntoTheReference()]])
def test_a_repair_of_ones_own_may_write_into_its_reference(repair):
    model = network()
    before = model[0].weight.clone()
    with pytest.raises(RuntimeError, match="no"):
        Pruner(0.8, repair=repair, monitor=False, calibration_batches=2).apply(model, batches())
    assert torch.equal(model[0].weight, before)
