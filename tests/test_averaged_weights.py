"""Averages of the weights have the zeros, whoever keeps them, and resume exactly."""

import lightning.pytorch as pl
import pytest
from helpers import zeros
from lightning.pytorch.callbacks import StochasticWeightAveraging
from scenarios.resuming import (
    AVERAGES,
    HALF,
    QUIET,
    STEPS,
    Deterministic,
    Save,
    averages,
    both_orders,
    exact,
    fit,
    loaded,
    masks_in,
    pruned,
    reflow,
    some_schedules,
)

from reflow_lightning import Gradual, OneShot

pytestmark = QUIET


@both_orders
@pytest.mark.parametrize("average", AVERAGES)
def test_current_and_averaged_weights_resume_exactly(average, order, tmp_path):
    callbacks = lambda: [reflow(Gradual(every_n_steps=2)), AVERAGES[average]()][::order]  # noqa: E731
    assert exact(tmp_path, callbacks) == [True] * STEPS


@both_orders
@pytest.mark.parametrize("average", AVERAGES)
@some_schedules
def test_an_average_is_validated_and_saved_with_the_zeros_of_the_moment(schedule, average, order, tmp_path):
    module, callback, save = Deterministic(), reflow(schedule), Save(tmp_path)
    validated = []

    class Watch(pl.Callback):
        def on_validation_batch_end(self, trainer, pl_module, *args):
            validated.append(zeros(pl_module) == pruned(callback.masks))

    fit(module, *[callback, AVERAGES[average]()][::order], Watch(), save, val_check_interval=1)
    assert validated == [True] * len(validated)
    for path in save.paths:
        assert zeros(loaded(path)) == pruned(masks_in(path))
    assert zeros(module) == HALF


@both_orders
def test_an_average_of_a_module_that_was_given_dense_weights_has_the_zeros(order):
    module, callback = Deterministic(), reflow(OneShot(step=3))
    fit(module, callback)
    module.load_state_dict(Deterministic(1).state_dict())
    average = averages().EMAWeightAveraging(decay=0.5, update_starting_at_step=100)
    fit(module, *[callback, average][::order])
    assert zeros(module) == HALF


@both_orders
@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("swa_epoch_start", [1, 3])
@pytest.mark.parametrize("schedule", [OneShot(step=6), OneShot(fraction=1.0), Gradual(every_n_steps=1)], ids=repr)
def test_stochastic_weight_averaging_leaves_the_zeros(schedule, swa_epoch_start, normalised, order):
    """Where there are BatchNorm layers, Lightning adds an epoch for their statistics, and counts it as training."""
    module, callback = Deterministic(normalised=normalised), reflow(schedule)
    fit(module, *[callback, StochasticWeightAveraging(0.05, swa_epoch_start)][::order], max_epochs=4)
    assert zeros(module) == HALF
    assert callback.completed
    for name, mask in callback.masks.items():
        assert not module.get_parameter(name)[~mask].any()
