"""Gradients of pruned weights are set to zero where somebody looks at them, and nowhere else."""

import lightning.pytorch as pl
import pytest
import torch
from helpers import Module, loader, trainer
from torch import nn

from reflow_lightning import Reflow
from reflow_lightning.pruning.keeping import ZeroKeeper

STEPS, EPOCHS = 4, 2
BY_ELEMENT = ["SGD", "ASGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Rprop"]


class Steady(Module):
    def __init__(self, kind="SGD"):
        super().__init__()
        self.net[3] = nn.Identity()  # no dropout
        self.kind = kind

    def configure_optimizers(self):
        return getattr(torch.optim, self.kind)(self.parameters())


class Clips(Steady):
    def configure_gradient_clipping(self, *args, **kwargs):
        pass


class LogsNorms(Steady):
    def on_before_optimizer_step(self, optimizer):
        pass


class Hooked(Steady):
    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        optimizer.register_step_pre_hook(lambda *_: None)
        return optimizer


class Own(torch.optim.SGD):
    """Might do anything."""


class OwnOptimizer(Steady):
    def configure_optimizers(self):
        return Own(self.parameters(), 0.1)


class Looks(pl.Callback):
    def on_before_zero_grad(self, *args):
        pass


@pytest.fixture
def passes(monkeypatch):
    """One entry for each pass over the gradients."""
    found, mask = [], ZeroKeeper.mask_gradients
    monkeypatch.setattr(ZeroKeeper, "mask_gradients", lambda keeper: found.append(1) or mask(keeper))
    return found


def fit(module, *callbacks, **options):
    pl.seed_everything(0, verbose=False)
    reflow = Reflow(0.5, calibration_batches=2, monitor=False)
    runner = trainer(reflow, *callbacks, **{"max_epochs": EPOCHS} | options)
    runner.fit(module, loader(16 * STEPS, shuffle=False))
    return reflow, runner


def test_where_nobody_looks_there_is_one_pass_an_epoch(passes):
    fit(Steady())
    assert len(passes) == EPOCHS  # at the end, which has hooks enough


@pytest.mark.parametrize("module", [Clips, LogsNorms, Hooked, OwnOptimizer, lambda: Steady("Adafactor")])
def test_a_module_or_optimizer_that_may_look_gets_a_pass_each_step(passes, module):
    fit(module())
    assert len(passes) == EPOCHS * STEPS


@pytest.mark.parametrize(("callbacks", "options"), [((Looks(),), {}), ((), {"gradient_clip_val": 1.0})])
def test_so_do_a_callback_and_clipping(passes, callbacks, options):
    fit(Steady(), *callbacks, **options)
    assert len(passes) == EPOCHS * STEPS


@pytest.mark.parametrize("kind", BY_ELEMENT)
def test_looking_changes_nothing_of_what_stays(kind):
    """Neither weights nor moments, bit for bit; of pruned weights there are no moments in the end."""
    states, moments = [], []
    for callbacks in ((), (Looks(),)):
        torch.manual_seed(0)
        module = Steady(kind)
        reflow, runner = fit(module, *callbacks)
        states.append(module.state_dict())
        moments.append({})
        for name, parameter in module.named_parameters():
            kept = reflow.masks.get(name, torch.ones_like(parameter).bool())
            for key, value in runner.optimizers[0].state[parameter].items():
                if value.shape == parameter.shape:
                    moments[-1][name, key] = value[kept]
                    assert callbacks or not value[~kept].any()
    for unseen, seen in (states, moments):
        assert unseen.keys() == seen.keys()
        assert all(torch.equal(unseen[name], seen[name]) for name in seen)


def test_a_checkpoint_amid_an_epoch_holds_no_moments_of_pruned_weights(tmp_path):
    class Saves(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if batch_idx == 2:
                trainer.save_checkpoint(tmp_path / "a.ckpt")

    Saves.__module__ = "lightning.of_somebody"  # so that it does not count as one that looks
    module = Steady("Adam")
    reflow, _ = fit(module, Saves(), max_epochs=1)
    [optimizer] = torch.load(tmp_path / "a.ckpt", weights_only=False)["optimizer_states"]
    names = [name for name, _ in module.named_parameters()]
    for name, mask in reflow.masks.items():
        state = optimizer["state"][names.index(name)]
        assert not any(state[moment][~mask].any() for moment in ("exp_avg", "exp_avg_sq"))
