"""Pruned weights that a repair fills are zero again, and a warning names the repair."""

import warnings

import pytest
import torch
from helpers import Module, images, loader, trainer
from zoo.convolutional import small_net

from reflow_lightning import Pruner, Reflow, find_sparsity
from reflow_lightning.calibration import Calibration

BATCHES = list(images(32).split(16))


class Fills:
    """A repair that writes wherever it likes."""

    def __repr__(self):
        return "Fills"

    def __call__(self, model, batches, forward, reference, /):
        for parameter in model.parameters():
            parameter.add_(0.1)
        return Calibration((), {}, 1, 0.0)


def all_zero(model, masks):
    return all(not model.get_parameter(name)[~mask].any() for name, mask in masks.items())


@pytest.mark.parametrize("repair", [Fills(), ["batchnorm", Fills()]], ids=["alone", "in a list"])
def test_in_an_event(repair):
    model, pruner = small_net(), Pruner(0.5, repair=repair, calibration_batches=2)
    with pytest.warns(UserWarning, match=r"repair .*Fills.* filled weights that are pruned, in '0.weight', "):
        event = pruner.apply(model, BATCHES)
    assert all_zero(model, pruner.masks)
    event.calibration.undo()


def test_what_the_event_undoes_is_the_dense_network():
    model, pruner = small_net(), Pruner(0.5, repair=Fills(), calibration_batches=2)
    pruned = {}
    pruner.listeners.append(lambda stage, m: pruned.update({stage: m[0].weight.clone()}))
    with pytest.warns(UserWarning, match="filled"):
        event = pruner.apply(model, BATCHES)
    event.calibration.undo()
    assert torch.equal(model[0].weight, pruned["pruned"])


def test_in_a_training():
    module, reflow = Module(), Reflow(0.5, repair=Fills(), calibration_batches=2)
    with pytest.warns(UserWarning, match="repair Fills filled"):
        trainer(reflow).fit(module, loader())
    assert all_zero(module, reflow.masks)


def test_in_a_search():
    model = small_net()
    with pytest.warns(UserWarning, match="repair Fills filled") as found:
        search = find_sparsity(
            model, BATCHES, lambda m: 1.0, max_drop=0.1, tolerance=0.3, repair=Fills(), max_batches=2
        )
    assert all_zero(model, search.masks)
    assert len([warning for warning in found if "filled" in str(warning.message)]) == 1


@pytest.mark.parametrize("repair", ["none", "batchnorm", "moments", "reconstruct", "align"])
def test_a_repair_that_keeps_zeros_is_not_warned_of(repair):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Pruner(0.5, repair=repair, calibration_batches=2, monitor=False).apply(small_net(), BATCHES)


def test_a_repair_that_names_no_stand_in_is_an_error():
    class Stands(Fills):
        def between_prunings(self, model):
            return None

    with pytest.raises(TypeError, match="repair Fills: its between_prunings gave NoneType, but must return a repair"):
        trainer(Reflow(0.5, repair=Stands(), schedule=_twice(), calibration_batches=2)).fit(Module(), loader())


def _twice():
    from reflow_lightning import Gradual

    return Gradual(end=1.0, every_n_steps=2)
