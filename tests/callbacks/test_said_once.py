"""A warning is said once in a training, however often its network is pruned and its patterns are matched."""

import warnings

import pytest
from helpers import Module, images, loader, trainer

from reflow_lightning import Gradual, Iterative, OneShot, Pruner, Reflow, find_sparsity


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
