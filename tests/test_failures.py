"""An event that fails anywhere changes nothing, and the fit ends with that very error."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from helpers import Module, everything, images, loader, selected_size, trainer, zeros
from torch import nn
from zoo.convolutional import small_net

from reflow_lightning import OneShot, Reflow, calibrate, measure_signal
from reflow_lightning.calibration import BatchNormStatistics

SIZE = selected_size(Module())
HALF = round(0.5 * SIZE)
PRUNED_ONCE = OneShot(step=2)


class Before(pl.Callback):
    """Stands before Reflow: what everything was at the last moment that it had to act."""

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.seen = everything(pl_module)


@dataclass
class CallsThatFail:
    """Counts calls and raises at the k-th; without a k it only counts."""

    at: int = 0
    calls: int = 0
    error: Exception = field(default_factory=lambda: RuntimeError("this very one"))

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == self.at:
            raise self.error


def draw() -> None:
    """What a transform or a dropout layer does."""
    random.random(), np.random.rand(), torch.rand(1)


def failing(where: str, fail: CallsThatFail) -> Reflow:
    """A callback whose calibration, listener or repair asks `fail` each time."""

    def forward(module, batch):
        draw()
        if where == "forward":
            fail()
        return module(batch[0])

    def batches() -> Iterator[tuple[torch.Tensor]]:
        for batch in images(64).split(16):
            draw()
            if where == "loader":
                fail()
            yield (batch,)

    def repair(*arguments):
        fail()
        return BatchNormStatistics()(*arguments)

    callback = Reflow(
        0.5,
        schedule=PRUNED_ONCE,
        calibration_batches=3,
        calibration_data=batches,
        forward=forward,
        repair=repair if where == "repair" else "auto",
    )
    if where == "listener":
        callback.listeners.append(lambda stage, module: fail())
    return callback


@contextmanager
def nothing_is_changed(before: Before, module: nn.Module, callback: Reflow) -> Iterator[None]:
    yield
    assert everything(module) == before.seen
    assert callback.masks is None
    assert callback.events == []
    assert zeros(module) == 0


@pytest.mark.parametrize(("where", "calls"), [("forward", 21), ("loader", 12), ("listener", 3), ("repair", 1)])
def test_whichever_call_raises_the_fit_ends_with_that_error_and_all_is_as_it_was(where, calls):
    counted = CallsThatFail()
    trainer(failing(where, counted)).fit(Module(), loader())
    # 3 batches: of the profile dense, pruned and repaired, of the statistics of both networks, and of both for the
    # classifier's moments; the order of the layers is learned in the passes that take the statistics
    assert counted.calls == calls
    for k in range(1, calls + 1):
        fail, module, before = CallsThatFail(k), Module(), Before()
        callback = failing(where, fail)
        with nothing_is_changed(before, module, callback), pytest.raises(RuntimeError) as raised:
            trainer(before, callback).fit(module, loader())
        assert raised.value is fail.error


@pytest.mark.parametrize("where", ["forward", "loader", "listener", "repair"])
def test_the_same_callback_prunes_at_the_next_fit(where):
    fail, module = CallsThatFail(1), Module()
    callback = failing(where, fail)
    with pytest.raises(RuntimeError, match="this very one"):
        trainer(callback).fit(module, loader())
    trainer(callback).fit(module, loader())
    assert zeros(module) == HALF


@pytest.mark.parametrize(("where", "calls"), [("forward", 21), ("loader", 12), ("listener", 3), ("repair", 1)])
def test_without_a_training_it_is_the_same(where, calls):
    for k in range(1, calls + 1):
        fail, model = CallsThatFail(k), small_net().train()
        callback = failing(where, fail)
        batches = FailingBatches(fail) if where == "loader" else [(batch,) for batch in images(64).split(16)]
        before = everything(model)
        with pytest.raises(RuntimeError) as raised:
            callback.apply(model, batches)
        assert raised.value is fail.error
        assert everything(model) == before
        assert callback.masks is None


class FailingBatches:
    """Batches that can be iterated again and fail at the k-th of all."""

    def __init__(self, fail: CallsThatFail) -> None:
        self.fail = fail

    def __iter__(self) -> Iterator[tuple[torch.Tensor]]:
        for batch in images(64).split(16):
            draw()
            self.fail()
            yield (batch,)


# -- activations that are no numbers


def poisoned(layer: int, channel: int, value: float, network: Callable[[nn.Module], nn.Module]):
    """A forward pass in which one channel of the output of one layer has another value."""

    def forward(module, batch):
        def poison(_, args, output):
            return output.index_fill(1, torch.tensor([channel]), value)

        handle = network(module)[layer].register_forward_hook(poison)
        try:
            return module(batch[0] if isinstance(batch, (tuple, list)) else batch)
        finally:
            handle.remove()

    return forward


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("layer", "named"), [(0, "1"), (4, "5")], ids=["first", "last"])
def test_one_channel_that_is_no_number_names_its_layer(layer, named, value):
    model = small_net().train()
    before = everything(model)
    forward = poisoned(layer, 3, value, lambda model: model)
    text = rf"layer '{named}' gets values that are NaN, infinite or too large for torch.float32 in 1 of 8 channels"
    with pytest.raises(ValueError, match=text):
        calibrate(model, list(images(64).split(16)), max_batches=4, forward=forward)
    assert everything(model) == before


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(("layer", "named"), [(0, "net.1"), (4, "net.5")], ids=["first", "last"])
@pytest.mark.parametrize("monitor", [True, False])
def test_in_a_fit_the_whole_prune_event_is_undone(layer, named, value, monitor):
    module, before = Module(), Before()
    forward = poisoned(layer, 3, value, lambda module: module.net)
    callback = Reflow(0.5, schedule=PRUNED_ONCE, calibration_batches=2, forward=forward, monitor=monitor)
    with nothing_is_changed(before, module, callback), pytest.raises(ValueError, match=rf"layer '{named}' .* 1 of 8"):
        trainer(before, callback).fit(module, loader())


def test_a_signal_that_is_no_number_is_reported_as_none():
    batch = images(16)
    batch[3] = torch.nan
    report = measure_signal(small_net(), [batch], reference=small_net(), max_batches=1)
    assert all(np.isnan([row.variance, row.cosine]).all() for row in report.rows)
    report.figure()
