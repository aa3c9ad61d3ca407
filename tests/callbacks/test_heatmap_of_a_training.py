"""The heat map covers the whole training: over resumes, over several fits, and once for several callbacks."""

import csv
import pickle

import pytest
from helpers import Module, loader, trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from reflow_lightning import Reflow, SignalMonitor
from reflow_lightning.schedules import Gradual, OneShot
from reflow_lightning.signal import plot_heatmap
from reflow_lightning.signal.heatmap import layers_of


def reflow(**arguments):
    return Reflow(0.5, calibration_batches=2, **arguments)


def fit(tmp_path, *callbacks, steps=4, checkpoint=None, module=None):
    runner = trainer(*callbacks, logger=CSVLogger(tmp_path, name="", version=""), max_steps=steps, max_epochs=-1)
    runner.fit(module or Module(), loader(), ckpt_path=checkpoint)
    return runner


def steps_of(monitor):
    return [(column.step, column.state) for column in monitor.history.columns]


def resumed_monitor():
    monitor = SignalMonitor(2)
    return monitor, monitor


def resumed_reflow():
    callback = reflow(schedule=OneShot(step=2), monitor=SignalMonitor(2))
    return callback, callback.monitor


@pytest.mark.parametrize("made", [resumed_monitor, resumed_reflow])
def test_it_goes_on_after_a_resume(made, tmp_path):
    callback, whole = made()
    fit(tmp_path / "whole", callback, steps=8)
    callback, _ = made()
    fit(tmp_path / "first", callback).save_checkpoint(tmp_path / "it.ckpt")
    callback, second = made()
    fit(tmp_path / "second", callback, steps=8, checkpoint=tmp_path / "it.ckpt")
    assert steps_of(second) == steps_of(whole)
    assert steps_of(second)[0] == (0, "")


def test_it_goes_on_in_a_second_fit_of_the_same_trainer(tmp_path):
    callback, module = reflow(schedule=OneShot(step=1)), Module()
    runner = fit(tmp_path, callback, module=module)
    before = steps_of(callback.own_monitor)
    runner.fit_loop.epoch_loop.max_steps = 8
    runner.fit(module, loader())
    after = steps_of(callback.own_monitor)
    assert after[: len(before)] == before
    assert len(after) > len(before)


def test_it_begins_anew_in_another_training(tmp_path):
    monitor = SignalMonitor(2)
    fit(tmp_path, monitor)
    first = steps_of(monitor)
    fit(tmp_path, monitor)
    assert steps_of(monitor) == first


def test_of_two_callbacks_that_prune_one_measures_and_shows_the_events_of_both(tmp_path):
    first = reflow(include="net.0.*", schedule=OneShot(step=1))
    second = reflow(include="net.4.*", schedule=OneShot(step=2))
    fit(tmp_path, first, second)
    assert second.own_monitor is None
    assert [step for step, state in steps_of(first.own_monitor) if state] == [1, 1, 2, 2]


def test_who_measures_does_not_depend_on_the_order_nor_on_the_fit(tmp_path):
    users = reflow(include="net.4.*", schedule=OneShot(step=2), monitor=SignalMonitor(2))
    others = reflow(include="net.0.*", schedule=OneShot(step=1))
    module = Module()
    runner = fit(tmp_path, others, users, module=module)
    assert others.own_monitor is None
    runner.fit_loop.epoch_loop.max_steps = 8
    runner.fit(module, loader())
    assert others.own_monitor is None
    assert [step for step, state in steps_of(users.monitor) if state] == [1, 1, 2, 2]


class Tagged(SignalMonitor):
    """A monitor with an argument of its own."""

    def __init__(self, tag, **options):
        super().__init__(**options)
        self.tag = tag


@pytest.mark.parametrize(
    "made",
    [
        lambda: (SignalMonitor(2, layers="net.0"), SignalMonitor(2, layers="net.9")),
        lambda: (
            SignalMonitor(2, forward=lambda module, batch: module(batch[0])),
            SignalMonitor(2, forward=lambda module, batch: module(-batch[0])),
        ),
        lambda: (Tagged("a", every_n_steps=2), Tagged("b", every_n_steps=2)),
    ],
    ids=["layers", "forward", "subclass"],
)
def test_several_monitors_have_histories_of_their_own(made, tmp_path):
    whole = made()
    fit(tmp_path / "whole", *whole, steps=8)
    fit(tmp_path / "first", *made()).save_checkpoint(tmp_path / "it.ckpt")
    resumed = made()
    fit(tmp_path / "second", *resumed, steps=8, checkpoint=tmp_path / "it.ckpt")
    assert [steps_of(monitor) for monitor in resumed] == [steps_of(monitor) for monitor in whole]
    assert set(layers_of(resumed[0].history.columns)) == set(layers_of(whole[0].history.columns))


def test_a_monitor_resumes_though_it_measures_at_other_steps(tmp_path):
    fit(tmp_path / "first", SignalMonitor(2)).save_checkpoint(tmp_path / "it.ckpt")
    monitor = SignalMonitor(3)
    fit(tmp_path / "second", monitor, steps=8, checkpoint=tmp_path / "it.ckpt")
    assert [step for step, _ in steps_of(monitor)][:2] == [0, 2]


@pytest.mark.parametrize("made", [lambda: SignalMonitor(2), lambda: reflow(schedule=OneShot(step=1))])
def test_what_another_training_had_is_no_part_of_it(made, tmp_path):
    fit(tmp_path / "dense", steps=3).save_checkpoint(tmp_path / "dense.ckpt")
    callback = made()
    fit(tmp_path / "first", callback)
    fit(tmp_path / "second", callback, steps=8, checkpoint=tmp_path / "dense.ckpt")
    monitor = callback if isinstance(callback, SignalMonitor) else callback.own_monitor
    steps = [step for step, _ in steps_of(monitor)]
    assert steps == sorted(steps)
    assert min(steps) >= 3


def test_a_validation_of_a_checkpoint_leaves_it(tmp_path):
    callback, module = reflow(schedule=OneShot(step=1)), Module()
    runner = fit(tmp_path, callback, module=module)
    before = steps_of(callback.own_monitor)
    runner.save_checkpoint(tmp_path / "it.ckpt")
    runner.validate(module, loader(), ckpt_path=tmp_path / "it.ckpt", verbose=False, weights_only=False)
    assert steps_of(callback.own_monitor) == before


def test_a_monitor_can_be_sent_to_another_process_after_a_training(tmp_path):
    monitor = SignalMonitor(2)
    fit(tmp_path, monitor)
    assert steps_of(pickle.loads(pickle.dumps(monitor))) == steps_of(monitor)


def test_an_event_before_the_first_moment_shows_the_layers_of_the_monitor(tmp_path):
    callback = reflow(schedule=OneShot(), monitor=SignalMonitor(2, layers=["net.0", "net.9"]))
    fit(tmp_path, callback)
    columns = callback.monitor.history.columns
    assert columns[0].state == "pruned"
    labels = [label.get_text() for label in plot_heatmap(columns).axes[0].get_yticklabels()]
    assert labels == ["0", "9"]
    assert len(layers_of(columns)) > 2


def test_of_many_events_some_have_pictures_and_all_are_in_the_tables(tmp_path):
    callback = reflow(schedule=Gradual(begin=0.0, end=0.9, every_n_steps=1))
    runner = trainer(callback, logger=TensorBoardLogger(tmp_path, name="", version=""), max_steps=20, max_epochs=-1)
    runner.fit(Module(), loader())
    steps = [event.step for event in callback.events]
    assert len(steps) > 16
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload()
    shown = [image.step for image in events.Images("activations/by_layer")]
    logged = [scalar.step for scalar in events.Scalars("sparsity/global")]
    assert shown == [*logged[:8], logged[15], logged[-1]]
    again = trainer(
        callback, logger=TensorBoardLogger(tmp_path / "again", name="", version=""), max_steps=4, max_epochs=-1
    )
    again.fit(Module(), loader())
    others = EventAccumulator(str(tmp_path / "again"), size_guidance={"images": 0}).Reload()
    assert len(others.Images("activations/by_layer")) == len(others.Scalars("sparsity/global")) > 2  # counted anew
    with (tmp_path / "signal.csv").open() as file:
        assert list(dict.fromkeys(int(row["step"]) for row in csv.DictReader(file))) == steps
