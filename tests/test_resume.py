"""A run that was stopped anywhere and resumed ends like one that never stopped, bit for bit."""

import lightning.pytorch as pl
import pytest
from helpers import loader
from scenarios.resuming import (
    AVERAGES,
    QUIET,
    SCHEDULES,
    STEPS,
    Deterministic,
    OwnLoader,
    Save,
    both_orders,
    every_schedule,
    exact,
    fit,
    reflow,
    same,
    saved,
    some_schedules,
)

from reflow_lightning import Gradual, OneShot

pytestmark = QUIET


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@every_schedule
def test_a_run_stopped_after_any_step_ends_like_one_that_never_stopped(schedule, optimizer, tmp_path):
    assert exact(tmp_path, lambda: [reflow(schedule)], model={"optimizer": optimizer}) == [True] * STEPS


def test_two_runs_that_start_with_other_weights_differ_in_everything_that_is_compared():
    first, second = (fit(Deterministic(seed, decays=True), reflow(OneShot(step=3))) for seed in (0, 1))
    assert {name for name in first if not same(first[name], second[name])} == {
        "module", "current", "optimizers", "callbacks",
    }  # fmt: skip
    assert not same(first["callbacks"][0]["masks"], second["callbacks"][0]["masks"])


@some_schedules
def test_so_it_is_with_a_learning_rate_that_changes_every_step(schedule, tmp_path):
    assert exact(tmp_path, lambda: [reflow(schedule)], model={"decays": True}) == [True] * STEPS


@pytest.mark.parametrize("data", ["val", loader(shuffle=True), lambda: loader(shuffle=True)])
def test_so_it_is_with_calibration_batches_drawn_at_random(data, tmp_path):
    schedule = Gradual(every_n_steps=1)
    assert exact(tmp_path, lambda: [reflow(schedule, calibration_data=data, calibration_batches=1)]) == [True] * STEPS


@every_schedule
def test_so_it_is_with_a_loader_that_is_no_data_loader(schedule, tmp_path):
    assert exact(tmp_path, lambda: [reflow(schedule)], batches=OwnLoader) == [True] * STEPS


def test_so_it_is_with_a_training_counted_in_steps(tmp_path):
    callbacks = lambda: [reflow(OneShot(fraction=0.5))]  # noqa: E731
    assert exact(tmp_path, callbacks, max_steps=6, max_epochs=-1) == [True] * 6


@pytest.mark.parametrize(
    ("hook", "options", "moments"),
    [
        ("on_train_start", {}, 1),
        ("on_validation_end", {"val_check_interval": 2}, 4),
        ("on_train_epoch_end", {}, 2),
        ("on_train_end", {}, 1),
    ],
)
@some_schedules
def test_so_it_is_wherever_else_lightning_saves_checkpoints(schedule, hook, options, moments, tmp_path):
    assert exact(tmp_path, lambda: [reflow(schedule)], hook, **options) == [True] * moments


@pytest.mark.parametrize(
    "callbacks", [list, lambda: [reflow(OneShot(step=2))], lambda: [reflow(Gradual(every_n_steps=1))]]
)
def test_with_accumulated_gradients_it_is_so_after_every_step_of_the_optimizer(callbacks, tmp_path):
    """Between two batches of a step Lightning loses the gradient so far, also without Reflow."""
    assert exact(tmp_path, callbacks, accumulate_grad_batches=2) == [False, True] * 4


@pytest.mark.parametrize("callbacks", [list, lambda: [reflow(OneShot(step=3))]])
def test_within_an_epoch_lightning_needs_a_loader_that_keeps_its_place(callbacks, tmp_path):
    """Any other begins the epoch anew, also without Reflow."""
    from_step = exact(tmp_path, callbacks, batches=lambda: loader(shuffle=False))
    assert from_step == [False, False, False, True] * 2


def test_lightning_restores_the_place_of_such_a_loader(tmp_path):
    class Given(pl.Callback):
        def __init__(self):
            self.batches = []

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.batches.append(batch[0])

    whole = Given()
    paths = saved(tmp_path, whole)
    assert not same(whole.batches[:4], whole.batches[4:])  # the epochs differ
    for step, path in paths.items():
        rest = Given()
        fit(Deterministic(1), rest, ckpt_path=path)
        assert same(rest.batches, whole.batches[step:])


def test_a_step_that_was_saved_before_it_was_pruned_is_pruned_on_resume(tmp_path):
    """A callback of your own that stands before Reflow saves first; Lightning's ModelCheckpoint never does."""
    save, first = Save(tmp_path), reflow(OneShot(step=3))
    whole = fit(Deterministic(0), save, first)
    second = reflow(OneShot(step=3))
    assert same(whole, fit(Deterministic(1), second, ckpt_path=save.paths[2]))
    assert [event.step for event in second.events] == [event.step for event in first.events] == [3]


# -- all of it at once


@pytest.mark.slow
@both_orders
@pytest.mark.parametrize("average", [*AVERAGES, None])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@every_schedule
def test_every_schedule_optimizer_and_average_resumes_exactly(schedule, optimizer, average, order, tmp_path):
    def callbacks():
        averages = [AVERAGES[average]()] if average else []
        return [reflow(schedule), *averages, reflow(SCHEDULES[1], 0.3, include="net.4.*")][::order]

    model = {"optimizer": optimizer, "decays": True}
    options = {"val_check_interval": 2, "gradient_clip_val": 0.1}
    assert exact(tmp_path, callbacks, model=model, **options) == [True] * STEPS
