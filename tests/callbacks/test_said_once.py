"""A warning is said once in a training, however often its network is pruned and its patterns are matched."""

import warnings

import pytest
from helpers import Module, images, loader, trainer

from reflow_lightning import Gradual, Iterative, OneShot, Pruner, Reflow, SignalMonitor, find_sparsity


def said(call, text):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call()
    return len([warning for warning in found if text in str(warning.message)])


@pytest.mark.parametrize(
    "schedule", [OneShot(), OneShot(epoch=1), Gradual(every_n_steps=1), Iterative(every_n_epochs=1)], ids=str
)
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"exclude": "nothing.*"}, "exclude pattern 'nothing.*'"),
        ({"calibration_batches": 9}, "got 4 batches, all there"),
    ],
    ids=["exclude", "too few batches"],
)
def test_in_a_fit(schedule, options, text):
    def fit():
        trainer(Reflow(0.5, schedule=schedule, **{"calibration_batches": 2} | options)).fit(Module(), loader())

    assert said(fit, text) == 1


def test_each_fit_says_it():
    reflow, module = Reflow(0.5, exclude="nothing.*", calibration_batches=2), Module()
    for _ in range(2):
        assert said(lambda: trainer(reflow).fit(module, loader()), "exclude pattern") == 1


def test_another_model_is_told_of_too():
    pruner, batches = Pruner(0.5, exclude="nothing.*", calibration_batches=1), [images(16)]
    for _ in range(2):
        assert said(lambda: pruner.apply(Module().net, batches), "exclude pattern") == 1


def test_in_a_search():
    def search():
        find_sparsity(
            Module().net, [images(16)], lambda m: 1.0, max_drop=0.1, exclude="nothing.*", tolerance=0.2, max_batches=1
        )

    assert said(search, "exclude pattern") == 1


def test_fewer_batches_than_a_default_that_nobody_chose_are_no_news():
    assert said(lambda: trainer(Reflow(0.5)).fit(Module(), loader()), "all there were") == 0


def test_two_that_prune_the_same_weights_are_an_error_with_the_way_out():
    with pytest.raises(ValueError, match=r"two Reflow .* prune the same weights.*pass one, with a schedule"):
        trainer(Reflow(0.5), Reflow(0.9))
    trainer(Reflow(0.5, include="net.0.*"), Reflow(0.9, exclude="net.0.*"))


def test_callbacks_are_shown_as_the_calls_that_made_them():
    shown = repr(Reflow(0.5, schedule=OneShot(epoch=1), monitor=SignalMonitor(10, curves="*")))
    assert shown == "Reflow(0.5, schedule=OneShot(epoch=1), monitor=SignalMonitor(10, curves=('*',)))"
    assert eval(shown).monitor.curves == ("*",)
