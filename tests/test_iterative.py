"""Rounds of pruning and training that stop by themselves, and return to the best network."""

import copy
import json
import warnings
from dataclasses import asdict

import pytest
import torch
from helpers import loader, trainer, zeros
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from scenarios.resuming import QUIET, SIZE, Deterministic, Resumable, Save, averages, fit, masks_in, reflow, same

from reflow_lightning import Iterative, OneShot, Reflow
from reflow_lightning.schedules import Length, Progress

pytestmark = QUIET
QUARTERS = [round(share * SIZE) for share in (0.0, 0.5, 0.75)]


def at(epoch):
    return Progress(step=10 * epoch, epoch=epoch, fraction=None)


def prunings(schedule, epochs, final):
    """Epochs and sparsities of a whole training."""
    last, found = None, []
    for epoch in range(epochs):
        if not schedule.finished(last, final) and schedule.due(at(epoch), last):
            last = at(epoch)
            found.append((epoch, schedule.sparsity(last, final)))
    return found


# -- the schedule


def test_each_round_takes_the_same_share_of_what_is_left():
    schedule = Iterative(amount=0.5, every_n_epochs=3)
    assert prunings(schedule, 20, final=0.8) == [(3, 0.5), (6, 0.75), (9, 0.8)]


@given(st.floats(0.01, 0.99), st.integers(1, 5), st.floats(0, 0.99), st.integers(1, 60))
def test_it_is_the_plain_loop(amount, every, final, epochs):
    expected, left = [], 1.0
    for epoch in range(every, epochs, every):
        left *= 1 - amount
        expected.append((epoch, pytest.approx(min(final, 1 - left), abs=1e-8)))
        if final <= 1 - left + 1e-9:
            break
    assert prunings(Iterative(amount=amount, every_n_epochs=every), epochs, final) == expected


def test_rounding_asks_for_no_further_round():
    assert prunings(Iterative(amount=0.2), 9, final=0.36) == [(1, pytest.approx(0.2)), (2, 0.36)]


def test_a_round_that_was_jumped_over_is_made_up_for():
    schedule = Iterative(amount=0.5, every_n_epochs=2)
    assert schedule.due(at(5), None)
    assert schedule.sparsity(at(5), final=0.9) == 0.75


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"amount": 0}, r"Iterative\(amount=0\) must be a share of the weights in \(0, 1\)"),
        ({"amount": 1.0}, r"amount=1.0"),
        ({"amount": "half"}, "amount='half'"),
        ({"every_n_epochs": 0}, r"every_n_epochs=0\) must be a whole number of at least 1"),
        ({"every_n_epochs": 1.5}, "every_n_epochs=1.5"),
        ({"stop_on_drop": -0.1}, r"stop_on_drop=-0.1\) must be a number of at least 0"),
        ({"stop_on_drop": float("nan")}, "stop_on_drop=nan"),
        ({"mode": "best"}, "mode='best'"),
    ],
)
def test_arguments_are_checked(arguments, text):
    with pytest.raises(ValueError, match=text):
        Iterative(**arguments)


def test_a_training_must_be_long_enough():
    schedule = Iterative(amount=0.5, every_n_epochs=2)
    with pytest.raises(ValueError, match="first round begins at epoch 2, beyond the last one, 1: lower every_n_epochs"):
        schedule.check(Length(None, 2, True), 0.8)
    with pytest.raises(ValueError, match=r"gets to sparsity 0.75 in 6 epochs, and not to 0.8: raise amount"):
        schedule.check(Length(None, 6, True), 0.8)
    schedule.check(Length(None, 7, True), 0.8)
    schedule.check(Length(100, None, True), 0.8)
    Iterative(every_n_epochs=2, stop_on_drop=0.0).check(Length(None, 3, True), 0.99)  # as far as it gets


def test_a_pattern_is_refused():
    with pytest.raises(ValueError, match="pattern='2:4' can't be reached gradually"):
        Reflow(0.5, schedule=Iterative(), pattern="2:4")


# -- in a training


class Scripted(Deterministic):
    """Logs a metric that was written down before, by epoch, and keeps its states."""

    def __init__(self, values, seed=0):
        super().__init__(seed)
        self.values, self.states = values, []

    def on_validation_epoch_end(self):
        if not self.trainer.sanity_checking:
            self.states.append(copy.deepcopy(dict(self.state_dict())))
        self.log("val/accuracy", self.values[self.current_epoch])


def iterative(drop=0.1, sparsity=0.75, **options):
    schedule = {"amount": 0.5, "every_n_epochs": 2, "stop_on_drop": drop} | options
    return reflow(Iterative(**schedule), sparsity)


def ended(values, callback, *others, **options):
    """The epoch whose network a training ended with, by its bits."""
    module = Scripted(values)
    result = fit(module, callback, *others, **{"max_epochs": len(values)} | options)
    found = [epoch for epoch, state in enumerate(module.states) if same(state, dict(module.state_dict()))]
    return found[-1], result["steps"] // 4


@pytest.mark.parametrize(
    ("values", "best", "epochs"),
    [
        ([0.7, 0.9, 0.5, 0.85, 0.8, 0.7], 4, 6),  # good until the end
        ([0.9, 0.7, 0.5, 0.85, 0.7, 0.6], 3, 6),  # the last round ends with the training
        ([0.9, 0.7, 0.5, 0.6, 0.9, 0.9], 0, 4),  # none is good enough
        ([0.9, 0.9, 0.8, 0.8, 0.8], 4, 5),  # of equal ones the later; just good enough; a round cut short
        ([0.5, 0.5, float("nan"), 0.9, float("nan"), float("nan")], 3, 6),
    ],
)
def test_it_ends_with_the_best_epoch_of_the_last_good_round(values, best, epochs):
    callback = iterative()
    assert ended(values, callback) == (best, epochs)
    assert callback.returned.epoch == best
    assert callback.returned.number == best // 2
    assert callback.completed
    module = Scripted(values)
    fit(module, again := iterative(), max_epochs=len(values))
    assert zeros(module) == QUARTERS[best // 2]
    assert round((again.masks.sparsity if again.masks else 0.0) * SIZE) == QUARTERS[best // 2]


def test_lower_is_better_where_it_is_said_so():
    callback = iterative(mode="min")
    assert ended([0.5, 0.4, 0.45, 0.6, 0.6, 0.7], callback) == (2, 6)
    assert [row.value for row in callback.rounds] == pytest.approx([0.4, 0.45, 0.6])


def test_the_rounds_are_recorded():
    callback = iterative()
    ended([0.9, 0.7, 0.5, 0.85, 0.7, 0.6], callback)
    assert json.loads(json.dumps([asdict(row) for row in callback.rounds])) == [
        {"number": 0, "sparsity": 0.0, "epoch": 0, "step": 4, "value": pytest.approx(0.9), "kept": True},
        {
            "number": 1,
            "sparsity": QUARTERS[1] / SIZE,
            "epoch": 3,
            "step": 16,
            "value": pytest.approx(0.85),
            "kept": True,
        },
        {
            "number": 2,
            "sparsity": QUARTERS[2] / SIZE,
            "epoch": 4,
            "step": 20,
            "value": pytest.approx(0.7),
            "kept": False,
        },
    ]


def test_without_a_drop_it_ends_as_it_was_trained_and_the_metric_may_be_missing():
    callback = iterative(drop=None)
    assert ended([0.9, 0.9, 0.1, 0.1, 0.2, 0.1], callback) == (5, 6)
    assert [row.value for row in callback.rounds] == pytest.approx([0.9, 0.1, 0.2])
    assert callback.returned is None
    module = Deterministic()
    fit(module, callback := iterative(drop=None), max_epochs=6)
    assert zeros(module) == QUARTERS[2]
    assert [row.value for row in callback.rounds] == [None] * 3


def test_validations_and_checkpoints_of_a_bad_round_are_those_of_the_network_that_was_trained(tmp_path):
    save = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    module = Scripted([0.9, 0.9, 0.1, 0.9, 0.9])
    fit(module, iterative(every_n_epochs=1, sparsity=0.9), save, enable_checkpointing=True, max_epochs=5)
    assert module.validated_zeros[2::2] == QUARTERS  # after a sanity check of two batches
    assert zeros(module) == QUARTERS[1]
    for epoch, state in enumerate(module.states):
        saved = torch.load(tmp_path / f"epoch={epoch}.ckpt", weights_only=True)
        assert same(dict(saved["state_dict"]), state)
        assert (
            sum(int((~mask).sum()) for mask in (masks_in(tmp_path / f"epoch={epoch}.ckpt") or {}).values())
            == (QUARTERS[epoch])
        )


def test_a_training_that_another_callback_stops_returns_too():
    stop = EarlyStopping("val/accuracy", patience=0, mode="max")
    callback = iterative(drop=0.3)
    assert ended([0.5, 0.9, 0.7, 0.9, 0.9, 0.9], callback, stop) == (2, 3)
    with pytest.warns(UserWarning, match="training ended at step 4 before Iterative"):
        assert ended(
            [0.5] * 6, iterative(), EarlyStopping("val/accuracy", patience=0, stopping_threshold=0.1, mode="max")
        ) == (0, 1)


@pytest.mark.parametrize(("last", "warned"), [(0.9, True), (0.1, False)])
def test_a_training_that_ends_in_a_good_round_might_have_gone_further(last, warned):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(Scripted([0.9, 0.9, 0.9, 0.9, last]), iterative(sparsity=0.9), max_epochs=5)
    assert any("before Iterative" in str(warning.message) for warning in caught) == warned


def test_min_epochs_are_trained_but_no_further_round_begins():
    callback = iterative(every_n_epochs=1)
    assert ended([0.9, 0.1, 0.9, 0.9, 0.9], callback, min_epochs=4) == (0, 4)
    assert len(callback.events) == 1
    assert callback.masks is None


@pytest.mark.parametrize(
    ("options", "best"),
    [
        ({"val_check_interval": 2}, 3),
        ({"check_val_every_n_epoch": 2}, 3),
        ({"val_check_interval": 6, "check_val_every_n_epoch": None}, 2),
    ],
)
def test_validations_come_as_they_are_told(options, best):
    values = [0.9, 0.9, 0.8, 0.85, 0.1, 0.1]
    callback = iterative()
    ended(values, callback, **options)
    assert callback.returned.epoch == best
    assert [row.number for row in callback.rounds if row.kept] == [0, 1]


def test_what_is_returned_to_is_the_network_in_the_middle_of_an_epoch_if_that_was_best():
    class Twice(Scripted):
        def on_validation_epoch_end(self):
            super().on_validation_epoch_end()
            self.log("val/accuracy", self.values[self.current_epoch] - 0.1 * (self.global_step % 4 == 0))

    module, callback = Twice([0.9, 0.9, 0.9, 0.8, 0.1, 0.1]), iterative()
    fit(module, callback, max_epochs=6, val_check_interval=2)
    assert callback.returned.step == 10
    assert same(dict(module.state_dict()), module.states[4])


def test_the_last_event_cannot_be_undone_once_the_network_is_another():
    module, callback = Scripted([0.9, 0.9, 0.9, 0.9, 0.1, 0.1]), iterative()
    runner = trainer(callback, max_epochs=6)
    runner.fit(module, Resumable(), loader(32, shuffle=False))
    returned = copy.deepcopy(dict(module.state_dict()))
    callback.events[-1].calibration.undo()
    assert same(returned, dict(module.state_dict()))
    assert runner.callback_metrics["sparsity/global"] == QUARTERS[1] / SIZE


@pytest.mark.parametrize(("values", "value"), [([0.9, 0.9, 0.8, 0.85, 0.1, 0.1], 0.85), ([0.9, 0.9, 0.85, 0.8], 0.85)])
def test_the_metric_in_the_end_is_that_of_the_network_that_is_returned_to(values, value):
    runner = trainer(iterative(), max_epochs=len(values))
    runner.fit(Scripted(values), Resumable(), loader(32, shuffle=False))
    assert float(runner.callback_metrics["val/accuracy"]) == pytest.approx(value)


# -- before anything is changed


@pytest.mark.parametrize(
    ("options", "callbacks", "text"),
    [
        ({"limit_val_batches": 0}, [], "stop_on_drop=0.1 needs a validation: give a validation loader"),
        ({"check_val_every_n_epoch": 3}, [], "needs a validation in every round, but there is none in some 2 epochs"),
        ({"check_val_every_n_epoch": None, "val_check_interval": 9}, [], "none in some 2 epochs"),
    ],
)
def test_a_training_whose_rounds_cannot_be_judged_is_refused(options, callbacks, text):
    module = Scripted([0.9] * 6)
    before = copy.deepcopy(dict(module.state_dict()))
    with pytest.raises(ValueError, match=text):
        fit(module, iterative(), *callbacks, max_epochs=6, **options)
    assert same(before, dict(module.state_dict()))
    fit(module, iterative(drop=None), *callbacks, max_epochs=6, **options)


def test_averaged_weights_are_refused_since_no_round_can_return_to_them():
    average = averages().EMAWeightAveraging()
    with pytest.raises(ValueError, match="can't return to averaged weights: leave out EMAWeightAveraging"):
        fit(Scripted([0.9] * 6), iterative(), average, max_epochs=6)


def test_a_dense_network_that_no_round_can_be_compared_with_is_pointed_out_once():
    callback = iterative()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert ended([float("nan")] * 2 + [0.9, 0.8, 0.1, 0.2], callback) == (5, 6)
    said = [str(warning.message) for warning in caught if "good enough" in str(warning.message)]
    [text] = said
    assert text.startswith(
        "the dense network never had a metric but NaN, so that every round will count as good enough: "
    )
    assert text.endswith("before the first pruning")


def test_a_metric_that_is_missing_is_an_error_after_the_first_validation():
    module = Scripted([0.9] * 6)
    with pytest.raises(
        ValueError, match=r"monitor='val/acc'\) was not logged in the validation: use one of loss, val/acc"
    ):
        fit(module, iterative(monitor="val/acc"), max_epochs=6)
    assert len(module.states) == 1


# -- stopped and resumed


RUNS = pytest.mark.parametrize(
    "values",
    [[0.7, 0.9, 0.85, 0.5, 0.8, 0.7], [0.9, 0.7, 0.5, 0.85, 0.7, 0.6], [0.9, 0.7, 0.5, 0.6, 0.9, 0.9]],
    ids=["all good", "the last bad", "the first bad"],
)


def resumed(folder, values, hook, order=1):
    """Of every checkpoint that a run saves in a hook: whether a run resumed from it ends as this one does."""

    def run(seed, *others, ckpt_path=None):
        callback = iterative()
        found = fit(Scripted(values, seed), *[callback, *others][::order], ckpt_path=ckpt_path, max_epochs=6)
        del found["current"]  # the weights before it returned
        return found, callback.rounds, callback.returned

    save = Save(folder, hook)
    whole = run(0, save)
    return [same(whole, run(1, ckpt_path=path)) for path in save.paths]


@RUNS
@pytest.mark.parametrize(
    ("hook", "order"), [("on_train_epoch_end", 1), ("on_train_epoch_end", -1), ("on_validation_end", 1)]
)
def test_a_resumed_run_ends_as_one_that_never_stopped(values, hook, order, tmp_path):
    assert set(resumed(tmp_path, values, hook, order)) == {True}


@RUNS
def test_so_does_one_resumed_after_any_step_but_that_lightning_skips_a_validation(values, tmp_path):
    """From a checkpoint between the last batch of an epoch and its validation it goes on with the next epoch."""
    found = resumed(tmp_path, values, "on_train_batch_end")
    assert {equal for step, equal in enumerate(found, start=1) if step % 4} == {True}
    assert False in found[3::4]


@RUNS
def test_what_a_checkpoint_holds_of_the_rounds_is_plain(values, tmp_path):
    save = Save(tmp_path, "on_validation_end")
    fit(Scripted(values), iterative(), save, max_epochs=6)
    [state] = torch.load(save.paths[-1], weights_only=True)["callbacks"].values()
    assert len(state["rounds"]["rows"]) == (2 if len(save.paths) == 4 else 3)
    assert state["rounds"]["best"]["state"].keys() == dict(Scripted(values).state_dict()).keys()


def test_a_second_fit_trains_on_under_the_masks_and_judges_nothing():
    values = [0.9, 0.9, 0.9, 0.9, 0.1, 0.1]
    module, callback = Scripted(values), iterative()
    fit(module, callback, max_epochs=6)
    masks, rounds = copy.deepcopy(callback.masks), callback.rounds
    module.values, module.states = [0.1] * 6, []
    with pytest.warns(UserWarning, match="sparsity=0.75 has no effect"):
        fit(module, callback, max_epochs=6)
    assert same(dict(module.state_dict()), module.states[-1])
    assert (callback.masks, callback.rounds) == (masks, rounds)
    assert zeros(module) == QUARTERS[1]


def test_another_module_starts_anew():
    callback = iterative()
    fit(Scripted([0.9, 0.9, 0.1, 0.1]), callback, max_epochs=4)
    assert callback.returned.number == 0
    fit(Scripted([0.9, 0.9, 0.9, 0.9]), callback, max_epochs=4)
    assert callback.returned.number == 1


def test_a_validation_outside_of_the_training_is_not_heard():
    module, callback = Scripted([0.9, 0.9, 0.1, 0.1]), iterative(drop=None, sparsity=0.5)
    fit(module, callback, max_epochs=4)
    rounds = callback.rounds
    runner = trainer(callback)
    module.values = [1.0]
    runner.validate(module, loader(32, shuffle=False), verbose=False)
    assert callback.rounds == rounds


def test_a_trial_of_the_code_runs_through():
    fit(Scripted([0.9]), iterative(), fast_dev_run=True)


def test_other_schedules_have_no_rounds():
    callback = reflow(OneShot())
    fit(Deterministic(), callback)
    assert (callback.rounds, callback.returned, callback.state_dict()["rounds"]) == ((), None, None)


def test_a_loss_that_is_to_be_high_is_pointed_out():
    with pytest.warns(UserWarning, match="keeps the highest loss"):
        Iterative(monitor="val_loss", stop_on_drop=0.1).check(Length(steps=None, epochs=9, known=True), 0.9)


def test_rounds_that_may_go_on_for_ever_are_refused():
    with pytest.raises(ValueError, match="would never end"):
        Iterative(stop_on_drop=0.1).check(Length(steps=None, epochs=None, known=False), 0.9)
    Iterative().check(Length(steps=None, epochs=None, known=False), 0.9)
