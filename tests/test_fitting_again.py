"""The life of a callback: other Trainers, other callbacks beside it, validation and test."""

import copy

import lightning.pytorch as pl
import pytest
import torch
from helpers import loader, trainer, zeros
from scenarios.resuming import HALF, QUIET, SIZE, STEPS, Deterministic, Save, exact, fit, loaded, reflow, same, saved

from reflow_lightning import Gradual, OneShot

pytestmark = QUIET


def test_a_new_trainer_goes_on_under_the_masks():
    module, callback = Deterministic(), reflow(OneShot(step=3))
    fit(module, callback)
    masks = copy.deepcopy(callback.masks)
    fit(module, callback)
    assert [event.step for event in callback.events] == [3]
    assert callback.masks == masks
    assert module.validated_zeros[2:] == [HALF] * 10  # the sanity check of the second training, too


def test_a_new_trainer_goes_on_with_a_gradual_schedule_that_was_stopped():
    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer, *args):
            trainer.should_stop = trainer.global_step == 4

    module, callback = Deterministic(), reflow(Gradual(every_n_steps=1, end=1.0))
    with pytest.warns(UserWarning, match="training ended at step 4 before Gradual"):
        fit(module, callback, Stop())
    stopped = callback.masks
    fit(module, callback)
    for name, mask in callback.masks.items():
        assert not mask[~stopped[name]].any()  # what was pruned stays so
    assert [event.step for event in callback.events] == [1, 2, 3, 4, 5, 6, 7, 8]  # 5: the first that prunes more
    assert zeros(module) == HALF


def test_a_new_callback_prunes_a_pruned_module_further():
    module, first, second = Deterministic(), reflow(OneShot(), 0.5), reflow(OneShot(), 0.8)
    fit(module, first)
    fit(module, second)
    assert zeros(module) == round(0.8 * SIZE)
    for name, mask in second.masks.items():
        assert not mask[~first.masks[name]].any()


@pytest.mark.parametrize("method", ["validate", "test"])
def test_to_validate_or_test_a_checkpoint_changes_nothing(method, tmp_path):
    paths, callback, module = saved(tmp_path, reflow(OneShot(step=6))), reflow(OneShot()), Deterministic(1)
    evaluate = getattr(trainer(callback), method)
    for step, expected in ((5, 0), (6, HALF)):
        [metrics] = evaluate(module, loader(32, shuffle=False), ckpt_path=paths[step], weights_only=True, verbose=False)
        assert metrics["zeros" if method == "validate" else "test_zeros"] == expected
        assert same(dict(module.state_dict()), dict(loaded(paths[step]).state_dict()))
    assert callback.events == []


def test_a_fit_from_an_earlier_checkpoint_forgets_what_came_after_it(tmp_path):
    callback, module = reflow(OneShot(step=3)), Deterministic()
    paths = saved(tmp_path, reflow(OneShot(step=3)))
    whole = fit(module, callback)
    again = fit(module, callback, ckpt_path=paths[2])
    assert same(whole, again)
    assert [event.step for event in callback.events] == [3, 3]


def two():
    statistics = {"repair": "batchnorm"}  # for which the order of two callbacks does not matter
    return [
        reflow(OneShot(step=3), include="net.0.*", **statistics),
        reflow(Gradual(every_n_steps=1), 0.8, exclude="net.0.*", **statistics),
    ]


@pytest.mark.parametrize("order", [1, -1], ids=["same order", "other order"])
def test_two_callbacks_find_their_own_state_in_a_checkpoint(order, tmp_path):
    module, callbacks, save = Deterministic(), two(), Save(tmp_path)
    fit(module, *callbacks, save)
    for path in save.paths:
        resumed, others = Deterministic(1), two()
        fit(resumed, *others[::order], ckpt_path=path)
        assert [other.masks for other in others] == [callback.masks for callback in callbacks]
        assert same(dict(resumed.state_dict()), dict(module.state_dict()))


def test_two_callbacks_with_the_same_patterns_are_refused():
    with pytest.raises(ValueError, match="two Reflow in one Trainer prune the same weights"):
        trainer(reflow(OneShot(), include="net.0.*"), reflow(OneShot(step=3), 0.8, include=["net.0.*"]))


def test_of_two_callbacks_that_share_a_layer_each_keeps_its_zeros(tmp_path):
    def overlapping():
        return [
            reflow(OneShot(), include=["net.0.*", "net.4.*"]),
            reflow(Gradual(every_n_steps=1), 0.8, include=["net.4.*", "net.9.*"]),
        ]

    module, (first, second) = Deterministic(), overlapping()
    fit(module, first, second)
    shared = "net.4.weight"
    assert torch.equal(module.get_parameter(shared) == 0, ~(first.masks[shared] & second.masks[shared]))
    assert not second.masks[shared][~first.masks[shared]].all()  # neither holds all that the other has pruned ...
    assert second.masks[shared].sum() < first.masks[shared].sum()  # ... and each reaches its own sparsity
    assert exact(tmp_path, overlapping) == [True] * STEPS
