"""Checkpoints with and without the callback."""

import pytest
import torch
from helpers import loader, trainer, zeros
from scenarios.resuming import HALF, QUIET, SIZE, STEPS, Deterministic, fit, loaded, masks_in, reflow, same, saved
from torch import nn

from reflow_lightning import Gradual, OneShot

pytestmark = QUIET


def test_a_pruned_checkpoint_is_trained_and_tested_without_the_callback(tmp_path):
    paths = saved(tmp_path, reflow(OneShot(step=3)))
    module = Deterministic(1)
    [metrics] = trainer().test(module, loader(32, shuffle=False), ckpt_path=paths[5], weights_only=True, verbose=False)
    assert metrics["test_zeros"] == HALF
    reached = fit(module, ckpt_path=paths[5])
    assert reached["steps"] == STEPS
    assert zeros(module) < HALF  # nothing keeps them at zero


@pytest.mark.parametrize(
    ("schedule", "steps"),
    [
        (OneShot(), [5]),  # its moment is over: at once
        (OneShot(step=3), [5]),
        (OneShot(step=7), [7]),
        (OneShot(epoch=1), [5]),
        (OneShot(fraction=1.0), [8]),
        (Gradual(every_n_steps=1), [5, 6]),
        (Gradual(every_n_steps=2, end=0.9), [5, 7, 8]),
    ],
    ids=repr,
)
def test_a_dense_checkpoint_is_pruned_as_soon_as_it_is_time(schedule, steps, tmp_path):
    callback, module = reflow(schedule), Deterministic(1)
    fit(module, callback, ckpt_path=saved(tmp_path)[5])
    assert [event.step for event in callback.events] == steps
    assert zeros(module) == HALF


@pytest.mark.parametrize(
    ("before", "after", "steps", "sparsity"),
    [
        ((OneShot(step=6), 0.5), (OneShot(step=7), 0.8), [7], 0.8),  # nothing was pruned yet
        ((OneShot(step=3), 0.5), (OneShot(step=7), 0.5), [], 0.5),  # one shot was fired
        ((OneShot(step=3), 0.5), (OneShot(step=3), 0.3), [], 0.5),  # what was pruned stays so
        ((OneShot(step=3), 0.5), (Gradual(every_n_steps=1), 0.8), [5, 6], 0.8),
        ((Gradual(every_n_steps=1), 0.5), (Gradual(every_n_steps=1), 0.8), [6], 0.8),
        ((Gradual(every_n_steps=1), 0.5), (Gradual(every_n_steps=2, end=1.0), 0.5), [7, 8], 0.5),
    ],
)
def test_another_schedule_and_sparsity_go_on_from_what_was_pruned(before, after, steps, sparsity, tmp_path):
    callback, module = reflow(*after), Deterministic(1)
    fit(module, callback, ckpt_path=saved(tmp_path, reflow(*before))[5])
    assert [event.step for event in callback.events] == steps
    assert zeros(module) == round(sparsity * SIZE)


def test_one_shot_after_part_of_a_gradual_schedule_says_that_it_has_no_effect(tmp_path):
    path = saved(tmp_path, reflow(Gradual(every_n_steps=1)))[4]
    with pytest.warns(UserWarning, match=r"sparsity=0.8 has no effect: OneShot\(step=7\) was completed before"):
        fit(Deterministic(1), reflow(OneShot(step=7), 0.8), ckpt_path=path)


def test_a_checkpoint_names_what_a_plain_modules_checkpoint_names(tmp_path):
    (tmp_path / "plain").mkdir()
    dense, sparse = saved(tmp_path / "plain")[5], saved(tmp_path, reflow(OneShot(step=3)))[5]
    first, second = (torch.load(path, weights_only=True) for path in (dense, sparse))
    assert list(first["state_dict"]) == list(second["state_dict"])
    assert first.keys() == second.keys()
    assert second["callbacks"].keys() - first["callbacks"].keys() == {reflow(OneShot()).state_key}


def test_a_checkpoint_is_loaded_the_short_way(tmp_path):
    path = saved(tmp_path, reflow(OneShot(step=3)))[5]
    module = Deterministic.load_from_checkpoint(path, weights_only=True)
    assert zeros(module) == HALF
    masks_in(path).apply(module)  # they fit, and change nothing
    assert same(dict(module.state_dict()), dict(loaded(path).state_dict()))


def test_masks_take_a_bit_a_weight_of_the_checkpoint_file(tmp_path):
    class Wide(Deterministic):
        def __init__(self, *args):
            super().__init__(*args)
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(36, 400), nn.ReLU(), nn.Linear(400, 400))

    weights = 36 * 400 + 400 * 400
    files = []
    for name, callbacks in (("dense", []), ("sparse", [reflow(OneShot(step=1), 0.9)])):
        runner = trainer(*callbacks, max_steps=1)
        runner.fit(Wide(), loader(), weights_only=True)
        files.append(tmp_path / name)
        runner.save_checkpoint(files[-1], weights_only=False)
    dense, sparse = (file.stat().st_size for file in files)
    assert weights / 8 <= sparse - dense <= weights / 8 + 1024
    torch.load(files[-1], weights_only=True)
