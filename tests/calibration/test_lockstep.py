"""The plain way is to run all batches anew for each layer, ``held_bytes=0``."""

import copy
import threading
import warnings

import pytest
import torch
from helpers import Module, loader, trainer
from scenarios.thinned import bits, make, plain, thinned
from torch import nn
from zoo import networks
from zoo.routed import Experts

from reflow_lightning import Reflow, calibrate
from reflow_lightning.calibration import Reconstruct
from reflow_lightning.layers.order import forward_order
from reflow_lightning.running.live import LiveTensors

ALL = 1 << 40


def both_ways(model, dense, batches, forward=plain):
    """What the repair makes of the model in lock step, the plain way, and how often a network ran in each."""
    found = []
    for held_bytes in (ALL, 0):
        repaired, ran = copy.deepcopy(model), []

        def counted(network, batch, ran=ran):
            ran.append(network)
            return forward(network, batch)

        calibrate(
            repaired,
            batches,
            repair=Reconstruct(held_bytes=held_bytes),
            reference=dense,
            forward=counted,
            max_batches=len(batches),
        )
        found.append((bits(repaired), len(ran)))
    (in_step, passes), (anew, plain_passes) = found
    assert in_step == anew
    return passes, plain_passes


@pytest.mark.filterwarnings("ignore:calibrate left alone", "ignore:fewer samples", "ignore:.*did not fit")
@pytest.mark.parametrize("name", networks("repair"))
def test_the_result_is_bit_for_bit_what_comes_of_one_layer_at_a_time(name):
    passes, plain_passes = both_ways(*make(name))
    assert passes <= plain_passes


@pytest.mark.filterwarnings("ignore:.*did not fit")
def test_each_network_runs_once_over_the_batches_however_many_layers_there_are():
    for depth in (3, 30):
        dense = nn.Sequential(*(layer for _ in range(depth) for layer in (nn.Linear(8, 8), nn.ReLU()))).eval()
        model, batches = thinned(copy.deepcopy(dense)), [torch.randn(16, 8) for _ in range(4)]
        looks = 3 + 1  # at the outputs before, after and of the dense network, and at the order of the layers
        assert both_ways(model, dense, batches) == (looks + 2 * 4, looks + 2 * 4 * depth)


@pytest.mark.filterwarnings("ignore:fewer samples")
def test_batches_beyond_the_memory_run_anew():
    model, dense, batches = make("mlp", 4)
    expected = copy.deepcopy(model)
    Reconstruct()(expected, batches, plain, dense)
    for fitting, beyond in ((3, 1), (1, 3)):
        repaired, held_bytes = copy.deepcopy(model), fitting * 2 * most_of_a_pass(model, batches)
        with pytest.warns(UserWarning, match=f"{beyond} of the batches did not fit into held_bytes={held_bytes}"):
            Reconstruct(held_bytes=held_bytes)(repaired, batches, plain, dense)
        assert bits(repaired) == bits(expected)


def most_of_a_pass(model, batches):
    """The most memory of the pass that learns the order of the layers, which is measured."""
    with torch.no_grad(), LiveTensors() as live:
        forward_order(model, batches, plain)
    return live.peak


class Skips(nn.Module):
    """Keeps what it computes on the module, where another pass would overwrite it."""

    def __init__(self, kept):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.kept, self.skip, self.stack = kept, None, []
        self.register_buffer("last", torch.zeros(4))

    def forward(self, x):
        x = torch.relu(self.first(x))
        self.keep(x)
        x = torch.relu(self.second(x)) + self.taken()
        return self.head(x)

    def keep(self, x):
        if self.kept == "attribute":
            self.skip = x
        elif self.kept == "list":
            self.stack.append(x)
        else:
            self.last.fill_(x.mean())

    def taken(self):
        if self.kept == "attribute":
            x, self.skip = self.skip, None
            return x
        return self.stack.pop() if self.kept == "list" else self.last.mean()


@pytest.mark.filterwarnings("ignore:.*did not fit")
@pytest.mark.parametrize("kept", ["attribute", "list", "buffer"])
def test_a_network_that_keeps_a_state_between_layers_runs_anew_for_each(kept):
    dense = Skips(kept).eval()
    model, batches = thinned(copy.deepcopy(dense)), [torch.randn(16, 8) * n for n in (1, 2, 3)]
    with pytest.warns(UserWarning, match="keeps a state of its own from one layer to the next"):
        both_ways(model, dense, batches)


@pytest.mark.filterwarnings("ignore:.*did not fit", "ignore:.*other rows", "ignore:calibrate left alone")
@pytest.mark.parametrize("balanced", [True, False])
def test_batches_that_take_other_ways_run_anew(balanced):
    dense = Experts(balanced).eval()
    both_ways(thinned(copy.deepcopy(dense)), dense, [torch.randn(64, 8) for _ in range(3)])


@pytest.mark.filterwarnings("ignore:.*did not fit", "ignore:calibrate left alone")
def test_batches_that_reach_layers_in_another_order():
    class Either(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x):
            first, second = (self.one, self.other) if len(x) > 16 else (self.other, self.one)
            x = torch.relu(second(torch.relu(first(x))))
            return self.head(x) if len(x) != 20 else x

    dense = Either().eval()
    both_ways(thinned(copy.deepcopy(dense)), dense, [torch.randn(n, 8) for n in (32, 8, 20, 16, 40)])


@pytest.mark.filterwarnings("ignore:.*did not fit")
def test_noise_is_the_same_in_both_ways():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x):
            x = torch.relu(self.first(x + torch.randn_like(x)))
            return self.second(x + torch.rand(1))

    dense = Noisy().eval()
    both_ways(thinned(copy.deepcopy(dense)), dense, [torch.randn(16, 8) for _ in range(3)])


@pytest.mark.filterwarnings("ignore:.*did not fit")
def test_a_forward_pass_with_autocast_and_one_that_runs_a_step():
    model, dense, batches = make("convolutions")

    def cast(network, batch):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return network(batch)

    both_ways(model, dense, batches, cast)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        both_ways(model, dense, batches)


class FailingError(Exception):
    pass


@pytest.mark.parametrize("error", [FailingError, KeyboardInterrupt])
def test_a_failure_midway_ends_all_threads_and_restores_the_model(error):
    model, dense, batches = make("mlp")
    before, threads, reached = bits(model), threading.active_count(), []

    def fail(module, args, output):
        reached.append(threading.current_thread())
        if len(reached) == 4:
            raise error

    model[2].register_forward_hook(fail)  # in the second batch, after a look at the outputs and one at the order
    with pytest.raises(error) as caught, warnings.catch_warnings():
        calibrate(model, batches, repair="reconstruct", reference=dense, max_batches=3)
    assert bits(model) == before
    assert threading.active_count() == threads
    assert not model[2]._forward_pre_hooks
    if error is FailingError:
        notes = getattr(caught.value, "__notes__", caught.value.args)
        assert "This was in batch 1, on its way to layer '4'." in str(notes)


@pytest.mark.parametrize("held_bytes", [-1, 1.5, "1GB"])
def test_the_memory_is_a_number_of_bytes(held_bytes):
    with pytest.raises(ValueError, match=r"held_bytes=.* must be a number of bytes, or None"):
        Reconstruct(held_bytes=held_bytes)


@pytest.mark.filterwarnings("error:.*keeps a state", "ignore:.*all there were")
@pytest.mark.parametrize("precision", ["32-true", "bf16-true", "bf16-mixed"])
def test_a_pass_beside_a_training_is_one_that_waits(precision):
    module, reflow = Module(), Reflow(0.5, repair="reconstruct", calibration_batches=3, monitor=False)
    trainer(reflow, max_steps=1, precision=precision).fit(module, loader())
    assert "log" not in vars(module)
    assert torch.get_default_dtype() == torch.float32
    assert any("least squares" in how for how in reflow.events[0].calibration.how.values())
