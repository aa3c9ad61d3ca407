"""The heat map covers the whole training: over resumes, over several fits, and once for several callbacks."""

import csv

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


def test_two_monitors_may_differ_in_what_they_measure(tmp_path):
    fit(tmp_path, SignalMonitor(2, layers="net.0"), SignalMonitor(2, layers="net.9"))


def test_two_monitors_of_the_same_are_an_error():
    with pytest.raises(ValueError, match="two SignalMonitor in one Trainer measure the same"):
        trainer(SignalMonitor(2), SignalMonitor(2))


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
    with (tmp_path / "signal.csv").open() as file:
        assert list(dict.fromkeys(int(row["step"]) for row in csv.DictReader(file))) == steps
