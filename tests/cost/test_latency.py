import time

import pytest
import torch
from torch import nn

from reflow_lightning.cost.latency import LEAST_SECONDS, busy_clock, measure_latency, paired_latency


class Notes:
    """What is noted of passes; it lies outside of the modules, whose attributes are put back."""

    def __init__(self):
        self.passes, self.states = [], None


class Sleeping(nn.Module):
    """Notes each of its passes, and takes at least so long."""

    def __init__(self, seconds=0.0, name="", notes=None):
        super().__init__()
        self.seconds, self.name, self.notes = seconds, name, notes or Notes()

    def forward(self, x):
        self.notes.passes.append(self.name)
        self.notes.states = self.training, torch.is_grad_enabled(), torch.get_num_threads()
        time.sleep(self.seconds)
        return x


def test_a_network_that_takes_three_times_as_long_is_found_to():
    latency = measure_latency(Sleeping(0.03), Sleeping(0.01), torch.zeros(5, 2), rounds=7)
    assert latency.before == pytest.approx(0.03, rel=0.3)
    assert latency.after == pytest.approx(0.01, rel=0.3)
    low, high = latency.speedup_range
    assert low <= latency.speedup <= high
    assert latency.speedup == pytest.approx(3, rel=0.3)
    assert (latency.rounds, latency.batch_size, latency.device) == (7, 5, "cpu")


def test_the_speedup_is_the_median_of_the_ratios_of_the_same_round(monkeypatch):
    """A machine that grows slower from round to round changes both times of a round, and no ratio."""
    times = {"before": (2.0, 20.0, 200.0), "after": (1.0, 10.0, 100.0)}
    monkeypatch.setattr("reflow_lightning.cost.latency.paired_latency", lambda *args, **options: times)
    latency = measure_latency(nn.ReLU(), nn.ReLU(), torch.zeros(1, 1))
    assert (latency.before, latency.after, latency.speedup, latency.speedup_range) == (20, 10, 2, (2, 2))


def test_the_order_is_turned_round_every_time():
    notes = Notes()
    models = {name: Sleeping(1.5 * LEAST_SECONDS, name, notes) for name in "ab"}
    paired_latency(models, torch.zeros(1), rounds=3, warmup=1)
    assert "".join(notes.passes[-6:]) == "abbaab"


def test_short_passes_are_repeated_until_the_clock_sees_them():
    model = Sleeping(LEAST_SECONDS / 10)
    [seconds] = paired_latency({"a": model}, torch.zeros(1), rounds=1).values()
    assert len(model.notes.passes) > 8
    assert seconds[0] == pytest.approx(LEAST_SECONDS / 10, rel=0.7)


def test_networks_run_in_eval_mode_without_gradients_and_are_as_before():
    model = nn.Sequential(Sleeping(), nn.Dropout(), nn.Linear(2, 2))
    model[1].eval()
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    measure_latency(model, model, torch.zeros(1, 2), rounds=2, threads=1)
    assert model[0].notes.states == (False, False, 1)
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_num_threads() == threads


def test_so_they_are_after_an_error():
    model, threads = nn.Linear(2, 2), torch.get_num_threads()
    with pytest.raises(RuntimeError):
        measure_latency(model, model, torch.zeros(1, 3), threads=1)
    assert model.training
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("given", [{"rounds": 0}, {"warmup": 0}, {"threads": 0}, {"rounds": True}, {"warmup": True}])
def test_numbers_below_one_and_true_are_refused(given):
    with pytest.raises(ValueError, match="{}={} must be at least 1".format(*next(iter(given.items())))):
        measure_latency(nn.ReLU(), nn.ReLU(), torch.zeros(1), **given)


def test_it_is_written_in_plain_types_and_words():
    latency = measure_latency(Sleeping(0.01), Sleeping(0.01), torch.zeros(4, 1), rounds=2)
    assert latency.to_dict()["speedup_range"] == list(latency.speedup_range)
    assert "times as fast" in str(latency)
    assert "the median of 2 pairs" in str(latency)
    assert "batch of 4, cpu" in str(latency)


def test_a_network_of_several_inputs_takes_them_as_a_tuple():
    class Two(Sleeping):
        def forward(self, x, y, scale):
            return super().forward(x + y * scale)

    inputs = torch.zeros(4, 2), torch.zeros(4, 1), 2
    latency = measure_latency(Two(0.02), Two(0.01), inputs, rounds=3)
    assert latency.batch_size == 4
    assert latency.speedup == pytest.approx(2, rel=0.3)
    assert len(paired_latency({"a": Two()}, inputs, rounds=2)["a"]) == 2


def test_time_is_what_the_clock_tells():
    ticks = iter(range(1000))
    latency = measure_latency(Sleeping(), Sleeping(), torch.zeros(1), rounds=2, clock=lambda: next(ticks))
    assert (latency.before, latency.after) == (1, 1)


def test_one_thread_is_not_charged_for_the_time_in_which_it_waits(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    clock = busy_clock()
    start = clock()
    time.sleep(0.05)
    assert clock() - start < 0.02
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert busy_clock() is time.perf_counter


@pytest.mark.gpu
def test_a_gpu_is_waited_for():
    large = nn.Sequential(*(nn.Linear(4096, 4096) for _ in range(8))).cuda()
    small = nn.Linear(4096, 4096).cuda()
    latency = measure_latency(large, small, torch.randn(4096, 4096), rounds=5)
    assert latency.device == "cuda:0"
    assert 4 < latency.speedup < 12


def test_a_network_that_keeps_a_tensor_can_be_trained_afterwards():
    class Keeping(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.scale = nn.Linear(4, 4), None

        def forward(self, x):
            self.scale = torch.linspace(0, 1, 4) if self.scale is None else self.scale
            return self.fc(x) * self.scale

    model = Keeping()
    measure_latency(model, model, torch.zeros(2, 4), rounds=1, warmup=1)
    model(torch.zeros(2, 4)).sum().backward()
    assert model.fc.bias.grad is not None
