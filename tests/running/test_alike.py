import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

from reflow_lightning import measure_signal
from reflow_lightning.running.alike import Alike


class Draws(nn.Module):
    """Draws from every generator that there is."""

    def __init__(self):
        super().__init__()
        self.own = [torch.Generator().manual_seed(1), np.random.default_rng(1), np.random.RandomState(1)]
        self.more = {"python": random.Random(1)}

    def forward(self, x):
        drawn = [torch.rand(1), torch.rand(1, generator=self.own[0])]
        numbers = [random.random(), np.random.rand(), self.own[1].random(), self.own[2].rand()]
        return torch.cat([*drawn, torch.tensor([*numbers, self.more["python"].random()])])


def run(alike, models, batches):
    forward = alike.forward(lambda model, batch: model(batch))
    return [[forward(model, batch).tolist() for model in models] for batch in alike.each(batches)]


def test_networks_draw_the_same_for_a_batch_and_other_numbers_for_the_next():
    model, alike, batches = Draws(), Alike(), [torch.zeros(1)] * 3
    model(batches[0])  # somewhere
    first, again = run(alike, [model, copy.deepcopy(model)], batches), run(alike, [Draws()], batches)
    for (one, other), (later,) in zip(first, again, strict=True):
        assert one == other == later
    assert all(len({row[0][place] for row in first}) == 3 for place in range(7))


def test_no_generator_is_left_elsewhere():
    model = Draws()
    torch.manual_seed(0), random.seed(0), np.random.seed(0)
    expected = copy.deepcopy(model)(None)
    torch.manual_seed(0), random.seed(0), np.random.seed(0)
    run(Alike(), [model], [torch.zeros(1)])
    assert torch.equal(model(None), expected)


def test_the_numbers_follow_the_random_state():
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(run(Alike(), [Draws()], [torch.zeros(1)]))
    assert found[0] == found[1] != found[2]


def test_another_batch_than_the_current_one_is_copied_and_draws_on():
    alike, x = Alike(), torch.ones(2)
    forward = alike.forward(lambda model, batch: batch.mul_(torch.rand(2)))
    assert not torch.equal(forward(nn.Identity(), x), forward(nn.Identity(), x))
    assert x.tolist() == [1, 1]


@pytest.mark.parametrize("order", [1, -1])
def test_a_network_that_draws_has_cosine_one_to_itself(order):
    class Noisy(nn.Sequential):
        def forward(self, x):
            return super().forward(x + torch.randn_like(x))

    model = Noisy(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    batches = [torch.randn(32, 4) for _ in range(3)][::order]
    for row in measure_signal(model, batches, reference=copy.deepcopy(model), max_batches=3).rows:
        assert row.cosine == pytest.approx(1)
        assert row.variance_ratio == 1
