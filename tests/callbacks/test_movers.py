"""What moved pruned weights outside of an optimizer's step is told, once."""

import warnings

import lightning.pytorch as pl
import torch
from helpers import Module, loader, trainer

from reflow_lightning import OneShot, Reflow


def moved(module, *callbacks):
    reflow = Reflow(0.5, allocation="uniform", schedule=OneShot(), repair="none", monitor=False)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        trainer(reflow, *callbacks).fit(module, loader(), loader())
    return [str(warning.message) for warning in told if "outside of an optimizer" in str(warning.message)]


class AfterBatch(Module):
    def on_train_batch_end(self, *_):
        with torch.no_grad():
            self.net[9].weight.add_(0.1)


class InStep(Module):
    def optimizer_step(self, *args, **kwargs):
        super().optimizer_step(*args, **kwargs)
        self.net[9].weight.data.add_(0.1)


class Mover(pl.Callback):
    def on_train_batch_end(self, trainer, module, *_):
        module.net[9].weight.data.add_(0.1)


def test_a_hook_of_the_module_is_named_once():
    [text] = moved(AfterBatch())
    assert "pruned weights of 'net.9.weight' were moved" in text
    assert "perhaps in AfterBatch.on_train_batch_end" in text


def test_so_is_one_within_the_batch():
    [text] = moved(InStep())
    assert "perhaps in InStep.optimizer_step" in text


def test_so_is_one_of_a_callback():
    [text] = moved(Module(), Mover())
    assert "Mover.on_train_batch_end" in text


def test_nothing_is_told_where_nothing_was_moved():
    assert moved(Module()) == []
