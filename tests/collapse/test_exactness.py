import pytest
import torch
from torch import nn

from reflow_lightning.collapse import collapse, collapse_report
from reflow_lightning.collapse.exactness import Expected, random_like
from reflow_lightning.collapse.graph.running import undisturbed
from reflow_lightning.collapse.work import Work

X = torch.ones(4, 2)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.count = self.count + 1
        return x.mul_(2) * self.count + torch.rand(())


def test_noise_has_the_shape_the_type_the_mean_and_the_spread_of_what_it_stands_for():
    given = (torch.randn(2000, 3).double() * 5 + 2, [torch.full((3,), 7.0)], torch.arange(10), "name")
    noise = random_like(given)
    assert noise[0].dtype == torch.float64
    assert noise[0].mean().item() == pytest.approx(2, abs=0.3)
    assert noise[0].std().item() == pytest.approx(5, abs=0.3)
    assert (noise[1][0] != 7).all()
    assert sorted(noise[2].tolist()) == list(range(10))
    assert noise[3] == "name"


def test_noise_leaves_the_random_state_alone_and_is_the_same_each_time():
    state = torch.get_rng_state()
    assert torch.equal(random_like((X,))[0], random_like((X,))[0])
    assert torch.equal(state, torch.get_rng_state())


def test_a_model_that_counts_draws_and_writes_to_its_input_gives_the_same_each_time():
    model, given = Counting(), X.clone()
    state = torch.get_rng_state()
    expected = Expected(model, [(given,), (given,)])
    assert expected.deviation(model) == 0
    assert model.count == 0
    assert torch.equal(given, X)
    assert torch.equal(state, torch.get_rng_state())


def test_the_deviation_is_the_largest_of_all_inputs():
    one, two = nn.Linear(2, 1), nn.Linear(2, 1)
    with torch.no_grad():
        two.weight.copy_(one.weight)
        two.bias.copy_(one.bias + one(X)[0])
    expected = Expected(one, [(X,), (X * 1e6,)])
    assert expected.deviation(one) == 0
    assert expected.deviation(two) == pytest.approx(1)


def test_buffers_are_put_back_after_an_error():
    model = Counting()
    buffer = model.count

    def fail():
        with undisturbed(model):
            model(X.clone())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert model.count is buffer
    assert buffer == 0


def test_outputs_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="can't be compared"):
        Expected(nn.Linear(2, 1), [(X,)]).deviation(nn.Linear(2, 3))


def test_no_network_is_measured_twice(monkeypatch):
    """Once as it was traced, and once after each step that changes it; the last of these serves the report."""
    measured, rows = [], []
    deviation, attempt = Expected.deviation, Work.attempt
    monkeypatch.setattr(Expected, "deviation", lambda self, other: measured.append(1) or deviation(self, other))
    monkeypatch.setattr(Work, "attempt", lambda *args: rows.append(attempt(*args)) or rows[-1])
    model = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).eval()
    with torch.no_grad():
        model[0].weight[:3] = 0
    collapsed = collapse(model, X)
    assert sum(rows) == 2  # the norm is folded, channels go
    assert len(measured) == 1 + sum(rows)
    assert collapse_report(collapsed).deviation == pytest.approx(0, abs=1e-6)
