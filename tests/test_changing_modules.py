"""Modules that are used twice, changed, replaced or copied within a training."""

import copy
import pickle
import warnings
from collections.abc import Callable

import lightning.pytorch as pl
import pytest
import torch
from helpers import Module, everything, loader, selected_size, trainer, zeros
from torch import nn

from reflow_lightning import Gradual, OneShot, Reflow

SIZE = selected_size(Module())
HALF = round(0.5 * SIZE)
PRUNED_ONCE = OneShot(step=2)


def test_a_layer_that_is_called_twice_is_pruned_once():
    class Twice(Module):
        def forward(self, x):
            first = self.net[4](self.net[:4](x))
            return self.net[5:](self.net[4](first))

    module, callback = Twice(), Reflow(0.5, schedule=PRUNED_ONCE, calibration_batches=2)
    trainer(callback).fit(module, loader())
    assert zeros(module) == HALF
    assert callback.masks.sparsity == 0.5


class At(pl.Callback):
    """Does something to the module after a step."""

    def __init__(self, step: int, action: Callable[[Module], object]) -> None:
        self.step, self.action = step, action

    def on_train_batch_end(self, trainer, pl_module, *args):
        if trainer.global_step == self.step:
            self.action(pl_module)


def fit_with(step: int, action: Callable[[Module], object], schedule=PRUNED_ONCE) -> Module:
    module = Module()
    trainer(Reflow(0.5, schedule=schedule, calibration_batches=2), At(step, action)).fit(module, loader())
    return module


def renew(module):
    module.net[9] = nn.Linear(8, 3)


def widen(module):
    module.net[9] = nn.Linear(8, 4)


def remove(module):
    module.net[9] = nn.Identity()


def give_new_data(module):
    module.net[9].weight.data = torch.randn(3, 8)


def give_new_data_of_another_shape(module):
    module.net[9].weight.data, module.net[9].bias.data = torch.randn(4, 8), torch.randn(4)


def freeze(module):
    module.net[0].requires_grad_(False)
    module.net[9].requires_grad_(False)


SCHEDULES = pytest.mark.parametrize("schedule", [PRUNED_ONCE, Gradual(every_n_steps=2)], ids=["one shot", "gradual"])


@SCHEDULES
def test_a_layer_that_was_replaced_gets_the_same_zeros_which_a_warning_says(schedule):
    with pytest.warns(UserWarning, match="parameters that Reflow has pruned were replaced: the new ones get the same"):
        assert zeros(fit_with(3, renew, schedule)) == HALF


@SCHEDULES
@pytest.mark.parametrize("action", [give_new_data, freeze])
def test_new_data_and_frozen_layers_keep_the_zeros(action, schedule):
    assert zeros(fit_with(3, action, schedule)) == HALF


@SCHEDULES
@pytest.mark.parametrize(
    ("action", "text"),
    [
        (widen, r"mask 'net.9.weight' has shape \(3, 8\), the model's parameter \(4, 8\)"),
        (give_new_data_of_another_shape, r"mask 'net.9.weight' has shape \(3, 8\), the model's parameter \(4, 8\)"),
        (remove, "mask 'net.9.weight' has no parameter in Module"),
    ],
)
@pytest.mark.parametrize("step", [3, 8], ids=["in between", "after the last step"])
def test_a_layer_that_is_another_now_is_named(action, text, schedule, step):
    with pytest.raises(ValueError, match=text):
        fit_with(step, action, schedule)


@pytest.mark.parametrize("action", [renew, widen, remove, freeze])
def test_before_the_pruning_a_layer_may_become_any_other(action):
    module = fit_with(1, action)
    assert zeros(module) == round(0.5 * selected_size(module))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_copies_of_network_and_callback_from_within_a_training_go_on_alone(duplicate):
    callback, module, copies = Reflow(0.5, schedule=PRUNED_ONCE, calibration_batches=2), Module(), []

    def take_copies(module):
        copies.extend([duplicate(callback), duplicate(module.net)])

    trainer(callback, At(4, take_copies)).fit(module, loader())
    other, net = copies
    assert zeros(net) == zeros(module) == HALF
    assert other.masks == callback.masks
    assert not torch.equal(net[9].weight, module.net[9].weight)  # the original was trained on
    trained, fresh = everything(module)["values"], Module()
    fresh.net = net
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message=".*(many workers|logging interval|LeafSpec|val_dataloader).*")
        trainer(other).fit(fresh, loader())
    assert zeros(fresh) == HALF
    assert everything(module)["values"] == trained
