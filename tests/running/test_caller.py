"""Every warning of the package names the user's line that led to it, here a line of this file."""

import inspect
import subprocess
import sys
import warnings
from contextlib import contextmanager

import lightning.pytorch as pl
import pytest
import torch
from helpers import Module, images, loader, trainer
from torch import nn
from zoo.convolutional import small_net

from reflow_lightning import Iterative, OneShot, Reflow, calibrate, find_sparsity, measure_signal, prune
from reflow_lightning.pruning.select import select
from reflow_lightning.running.caller import users_level
from reflow_lightning.running.processes import warn
from reflow_lightning.schedules import Length


@contextmanager
def warned_here(text):
    """Check that the warnings with a text point at the line after the ``with``, which is the only one of the block."""
    frame = inspect.currentframe().f_back.f_back
    line = frame.f_lineno + 1
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        yield
    found = [(warning.filename, warning.lineno) for warning in seen if text in str(warning.message)]
    assert set(found) == {(__file__, line)}


def test_select():
    with warned_here("exclude pattern 'nothing.*'"):
        select(small_net(), exclude="nothing.*")


def test_prune():
    net = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10))
    nn.init.constant_(net[0].weight, 1e-6)
    with warned_here("leaves no weight in 0.weight"):
        prune(net, 0.6)
    with warned_here("exclude pattern 'nothing.*'"):
        prune(net, 0.5, exclude="nothing.*")
    with warned_here("scoring got 1 batches"):
        prune(small_net(), 0.5, criterion="wanda", batches=[images(4)], max_batches=2)


def test_calibrate():
    with warned_here("no BatchNorm layer"):
        calibrate(nn.Sequential(nn.Linear(10, 10)), [torch.randn(4, 10)], max_batches=1)
    with warned_here("calibration got 1 batches"):
        calibrate(small_net(), [images(4)], max_batches=5)
    with warned_here("fewer samples than inputs"):
        calibrate(
            nn.Linear(10, 2), [torch.randn(4, 10)], repair="reconstruct", reference=nn.Linear(10, 2), max_batches=1
        )


def test_measure_signal():
    with warned_here("signal measurement got 1 batches"):
        measure_signal(small_net(), [images(4)], max_batches=5)


def test_find_sparsity():
    def unpruned(model):
        return float(all(module.weight.all() for module in model if hasattr(module, "weight")))

    with warned_here("no sparsity that was tried is within max_drop"):
        find_sparsity(small_net(), [images(4)], unpruned, max_batches=1)


def test_a_callback_that_fit_calls():
    run, callback = trainer(max_epochs=1), Reflow(0.5, exclude="nothing.*", calibration_batches=9, monitor=False)
    run.callbacks.append(callback)
    module, batches = Module(), loader()
    with warned_here("exclude pattern 'nothing.*'"):
        run.fit(module, batches)


def test_a_callback_when_fit_ends():
    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer, *args):
            trainer.should_stop = True

    run, module, batches = trainer(Reflow(0.5, schedule=OneShot(epoch=1)), Stop()), Module(), loader()
    with warned_here("training ended at step 1 before OneShot"):
        run.fit(module, batches)


def test_a_callback_that_is_applied_without_a_trainer():
    with warned_here("exclude pattern 'nothing.*'"):
        Reflow(0.5, exclude="nothing.*").apply(small_net(), [images(4)] * 50)


def test_a_schedule():
    with warned_here("keeps the highest loss"):
        Iterative(stop_on_drop=1.0, monitor="val_loss", mode="max").check(Length(10, 3, True), 0.9)


def test_the_nearest_line_of_the_user_is_named():
    """Even where it is called by the package, as a criterion of the user's own is."""

    def criterion(name, weight):
        with warned_here("from within"):
            warn("from within")
        return weight.abs()

    prune(small_net(), 0.5, criterion=criterion)


def test_where_no_line_is_the_users_the_outermost_is_named():
    code = "__name__ = 'reflow_lightning.own'\nfrom reflow_lightning.running.processes import warn\n\nwarn('text')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "<string>:4: UserWarning: text" in done.stderr


def test_the_level_counts_from_the_function_that_asks():
    assert users_level() == 1


def test_other_ranks_are_quiet(monkeypatch):
    monkeypatch.setattr("reflow_lightning.running.processes.rank", lambda: 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn("text")


@pytest.mark.parametrize("name", ["torchlike", "lightning_of_mine"])
def test_a_name_that_only_begins_like_one_of_theirs_is_the_users(name):
    space = {"__name__": name, "warn": warn}
    code = compile("\n\nwarn('text')", f"{name}.py", "exec")
    with pytest.warns(UserWarning, match="text") as seen:
        exec(code, space)
    assert [(warning.filename, warning.lineno) for warning in seen] == [(f"{name}.py", 3)]
