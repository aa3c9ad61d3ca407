import copy
import math

import pytest
import torch

from reflow_lightning.experiments.lr import cosine


def sgd(*rates):
    return torch.optim.SGD([{"params": [torch.zeros(1)], "lr": rate} for rate in rates])


def rates_of(optimizer, schedule, epochs):
    rates = []
    for _ in range(epochs):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return rates


def closed_form(epoch, epochs, warmup):
    if epoch < warmup:
        return (epoch + 1) / warmup
    return (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup))) / 2


@pytest.mark.parametrize(
    ("epochs", "warmup"), [(1, 0), (10, 0), (2, 1), (10, 1), (10, 2), (10, 5), (10, 9), (100, 5), (300, 30)]
)
def test_a_linear_warm_up_then_half_a_cosine(epochs, warmup):
    optimizer = sgd(0.4, 0.01)
    rates = rates_of(optimizer, cosine(optimizer, epochs, warmup), epochs)
    for epoch, (first, second) in enumerate(rates):
        assert first == pytest.approx(0.4 * closed_form(epoch, epochs, warmup), abs=1e-12)
        assert second == pytest.approx(0.01 * closed_form(epoch, epochs, warmup), abs=1e-12)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


def test_resumed_it_goes_on():
    optimizer = sgd(0.4)
    schedule = cosine(optimizer, 10, 3)
    rates_of(optimizer, schedule, 5)
    other = sgd(0.4)
    resumed = cosine(other, 10, 3)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    resumed.load_state_dict(copy.deepcopy(schedule.state_dict()))
    assert rates_of(other, resumed, 5) == rates_of(optimizer, schedule, 5)


@pytest.mark.parametrize(("epochs", "warmup"), [(10, 10), (10, 11), (10, -1), (0, 1)])
def test_a_warm_up_leaves_at_least_one_epoch(epochs, warmup):
    with pytest.raises(ValueError, match=f"warmup_epochs={warmup} must be less than epochs={epochs}"):
        cosine(sgd(0.4), epochs, warmup)
