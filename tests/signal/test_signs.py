import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reflow_lightning.signal import Signs
from reflow_lightning.signal.neurons import mean_entropy, saturated_channels, signs
from reflow_lightning.signal.reading import read
from reflow_lightning.signal.statistics import moments


def entropy_by_counting(values):
    """Neuron by neuron and value by value."""
    entropies = []
    for channel in values.movedim(1, 0).flatten(1).tolist():
        on, off = sum(v > 0 for v in channel), sum(v < 0 for v in channel)
        shares = [n / (on + off) for n in (on, off) if n]
        entropies.append(-sum(p * math.log2(p) for p in shares))
    return sum(entropies) / len(entropies)


@st.composite
def data(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    sizes = draw(st.lists(st.integers(1, 6), min_size=2, max_size=4))
    values = torch.randint(-2, 3, (sum(sizes), 4, 3), generator=generator).float()
    values[:, 0], values[:, 1] = values[:, 0].clamp(min=0), 0  # never off, and nothing at all
    return values, sizes


def counted(*parts):
    statistic = Signs(parts[0].shape[1])
    for part in parts:
        statistic.update(signs(part))
    return statistic


@given(data())
@settings(deadline=None)
def test_entropy_is_that_of_the_counts_however_they_are_split(case):
    values, sizes = case
    merged = counted(values[: sizes[0]])
    merged.merge_state(counted(values[sizes[0] :]))
    for statistic in (counted(values), counted(*values.split(sizes)), merged):
        found = statistic.compute()
        assert found.positive.tolist() == (values > 0).sum((0, 2)).tolist()
        assert found.negative.tolist() == (values < 0).sum((0, 2)).tolist()
        assert float(mean_entropy(found)) == pytest.approx(entropy_by_counting(values), abs=1e-12)


def test_the_entropy_of_all_is_not_the_mean_of_the_entropies_of_batches():
    on, off = torch.ones(4, 1), -torch.ones(4, 1)
    assert mean_entropy(counted(on, off).compute()) == 1
    assert mean_entropy(counted(on).compute()) == mean_entropy(counted(off).compute()) == 0


def test_a_channel_is_saturated_if_a_rectifier_after_it_never_switches():
    values = torch.tensor([[1.0, -1.0, 0.0, -1.0, 2.0], [3.0, -2.0, 0.0, 0.5, 0.0]])
    assert saturated_channels(counted(*values.split(1)).compute()) == 0.8  # all but the fourth
    switching = torch.tensor([[-1.0, 1.0, -1.0], [1.0, -1.0, 1e-30]])
    assert saturated_channels(counted(switching).compute()) == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_counts_are_exact_in_every_precision(dtype):
    values = torch.ones(3, 2, 5001).to(dtype)
    values[:, 1, ::3] = -1e-7
    assert signs(values).tolist() == [[15003.0, 15003.0 - 3 * 1667], [0.0, 3 * 1667.0]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(50, 3, 7), (5, 4, 1), (0, 4, 0)])
def test_a_reading_is_what_each_statistic_reads_by_itself(dtype, shape, monkeypatch):
    values = torch.randn(shape).to(dtype)
    before = values.clone()
    monkeypatch.setattr("reflow_lightning.signal.statistics._PIECE", 40)
    found = read(values)
    assert torch.equal(values, before)
    torch.testing.assert_close(found.moments, moments(values), rtol=1e-12, atol=1e-12)
    assert torch.equal(found.signs, signs(values))
    if len(values):
        torch.testing.assert_close(found.pooled.double(), values.double().mean(-1), rtol=1e-6, atol=1e-7)
