import shutil

import lightning.pytorch as pl
import pytest
import torch
from helpers import Module, loader, selected_size, trainer, zeros
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from reflow_lightning import Gradual, OneShot, Reflow, SignalMonitor, prune

EXPECTED = round(0.7 * selected_size(Module()))
WAYS = ["fit", "attribute", "module", "network", "network after pruning", "module after pruning"]


@pytest.fixture(autouse=True)
def no_compiled_code_of_other_tests():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


class Own(nn.Sequential):
    """torch 2.10 compiles no network whose class is torch's own."""

    def forward(self, given):
        return super().forward(given)


class Quiet(Module):
    """Logs nothing: Lightning's logging is nothing to compile."""

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self(batch[0])


class CompileAt(pl.Callback):
    def __init__(self, step, compiled):
        self.step = step
        self.compiled = compiled

    def on_train_batch_start(self, trainer, pl_module, *args):
        if trainer.global_step == self.step:
            self.compiled(pl_module)


def reflow(schedule, **options):
    return Reflow(0.7, schedule=schedule, calibration_batches=2, **options)


def train(way, backend, *callbacks, optimizer="adamw"):
    """Train a network that is compiled in this way, and return it."""
    pl.seed_everything(0, verbose=False)
    module = Quiet(optimizer)
    module.net = Own(*module.net)
    fitted, others = module, []
    if way == "fit":
        fitted = torch.compile(module, backend=backend)
    elif way == "attribute":
        module.net = torch.compile(module.net, backend=backend)
    elif way == "module":
        module.compile(backend=backend)
    elif way == "network":
        module.net.compile(backend=backend)
    elif way == "network after pruning":
        others = [CompileAt(4, lambda module: module.net.compile(backend=backend))]
    elif way == "module after pruning":
        others = [CompileAt(4, lambda module: module.compile(backend=backend))]
    trainer(*callbacks, *others).fit(fitted, loader(), loader(32, shuffle=False))
    return module


def state(module):
    return {name.replace("_orig_mod.", ""): value for name, value in module.state_dict().items()}


@pytest.mark.parametrize("schedule", [OneShot(), OneShot(step=3), Gradual(every_n_steps=2)])
@pytest.mark.parametrize("way", WAYS)
def test_a_compiled_training_ends_with_the_weights_of_the_eager_one(way, schedule):
    eager = state(train("not at all", None, reflow(schedule)))
    backend = CompileCounterWithBackend("aot_eager")
    callback = reflow(schedule)
    module = train(way, backend, callback)
    assert backend.frame_count > 0  # it was compiled
    assert zeros(module) == EXPECTED
    assert callback.events[-1].calibration.batches == 2
    assert len(callback.events[-1].calibration.repaired) == 3
    assert len(callback.events[-1].signal["repaired"].rows) == 3
    assert eager.keys() == state(module).keys()
    assert all(torch.equal(eager[name], value) for name, value in state(module).items())


@pytest.mark.parametrize("way", ["attribute", "network"])
def test_pruning_calibration_and_measurement_cause_no_recompilation(way):
    frames = []
    for callback in (SignalMonitor(1), reflow(Gradual(every_n_steps=1), monitor=SignalMonitor(1))):
        torch.compiler.reset()
        backend = CompileCounterWithBackend("eager")
        train(way, backend, callback)
        frames.append(backend.frame_count)
    assert frames[0] == frames[1]


def test_the_names_of_a_compiled_attribute_are_those_of_its_checkpoint():
    callback = reflow(OneShot())
    module = train("attribute", "eager", callback)
    assert set(callback.masks) == {f"net._orig_mod.{i}.weight" for i in (0, 4, 9)} < set(module.state_dict())


def test_patterns_on_the_names_of_a_compiled_attribute():
    module = Quiet()
    module.net = torch.compile(module.net, backend="eager")
    assert list(prune(module, 0.5, include="net._orig_mod.0.*")) == ["net._orig_mod.0.weight"]
    assert list(prune(module, 0.5, include="*.0.weight")) == ["net._orig_mod.0.weight"]
    assert list(prune(module, 0.5, include="net.0.*")) == ["net._orig_mod.0.weight"]


@pytest.mark.parametrize("compiled_first", [False, True])
def test_a_checkpoint_resumes_with_and_without_compilation(compiled_first, tmp_path):
    def module(compiled):
        pl.seed_everything(0, verbose=False)
        quiet = Quiet()
        quiet.net[3] = nn.Identity()  # no dropout, whose random state is no part of a checkpoint
        if compiled:
            quiet.net.compile(backend="aot_eager")
        return quiet

    data = loader(shuffle=False)
    whole = module(False)
    trainer(reflow(OneShot(step=2))).fit(whole, data)
    runner = trainer(reflow(OneShot(step=2)), max_epochs=1)
    runner.fit(module(compiled_first), data)
    runner.save_checkpoint(tmp_path / "half.ckpt", weights_only=False)
    callback = reflow(OneShot(step=2))
    resumed = module(not compiled_first)
    trainer(callback).fit(resumed, data, ckpt_path=tmp_path / "half.ckpt")
    assert callback.events == []
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("way", ["fit", "network", "network after pruning"])
def test_a_training_with_inductor_ends_close_to_the_eager_one(way):
    # Plain SGD, since Adam makes whole steps of the rounding errors that are the gradient of a bias before BatchNorm.
    eager = state(train("not at all", None, reflow(OneShot(step=3)), optimizer="sgd"))
    with torch._inductor.config.patch(fallback_random=True):  # the dropout of eager mode
        module = train(way, "inductor", reflow(OneShot(step=3)), optimizer="sgd")
    assert zeros(module) == EXPECTED
    for name, value in state(module).items():
        torch.testing.assert_close(value, eager[name], rtol=1e-3, atol=1e-5)
