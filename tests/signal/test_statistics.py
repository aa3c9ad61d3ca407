import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from reflow_lightning.signal import CenteredCosine, DeadChannels, Moments
from reflow_lightning.signal.statistics import moments


@st.composite
def data(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    sizes = draw(st.lists(st.integers(1, 8), min_size=2, max_size=5))
    offset = draw(st.sampled_from([0.0, 100.0, 1e5]))
    return torch.randn(sum(sizes), 3, 4, generator=generator, dtype=torch.float64) + offset, sizes


@given(data())
@settings(deadline=None)
def test_moments_do_not_depend_on_split_or_order(case):
    values, sizes = case
    whole, parts, reverse = Moments(3), Moments(3), Moments(3)
    whole.update(values)
    for part in values.split(sizes):
        parts.update(part)
    for part in reversed(values.split(sizes)):
        reverse.update(part)
    flat = values.movedim(1, 0).flatten(1)
    for statistic in (whole, parts, reverse):
        result = statistic.compute()
        torch.testing.assert_close(result.mean, flat.mean(1), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(result.variance, flat.var(1, correction=0), rtol=1e-9, atol=1e-12)
        assert result.values.tolist() == [flat.shape[1]] * 3


@given(data())
@settings(deadline=None, max_examples=30)
def test_states_merge(case):
    values, sizes = case
    a, b, c = (values.split(sizes)[0], values[sizes[0] :], values)
    first, second, whole = Moments(3), Moments(3), Moments(3)
    first.update(a)
    second.update(b)
    whole.update(c)
    first.merge_state(second)
    torch.testing.assert_close(first.compute().variance, whole.compute().variance, rtol=1e-9, atol=1e-12)


def test_a_part_without_data_changes_nothing():
    statistic = Moments(2)
    statistic.update(torch.tensor([[1.0, 2.0], [3.0, 2.0]]))
    statistic.update(torch.empty(0, 2))
    statistic.merge_state(Moments(2))
    assert statistic.compute().mean.tolist() == [2.0, 2.0]
    assert statistic.compute().variance.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_activations_are_not_touched(dtype):
    values = torch.randn(6, 3).to(dtype)
    before = values.clone()
    moments(values)
    assert torch.equal(values, before)


@pytest.mark.parametrize("dim", [1, -1])
def test_the_channel_dimension(dim):
    values = torch.randn(2, 5, 7)
    expected = values.movedim(dim, 0).flatten(1).double()
    torch.testing.assert_close(moments(values, dim)[1], expected.mean(1))


def test_large_inputs_are_taken_in_pieces(monkeypatch):
    values = torch.randn(50, 3, 7)
    whole = moments(values)
    monkeypatch.setattr("reflow_lightning.signal.statistics._PIECE", 40)
    torch.testing.assert_close(moments(values), whole, rtol=1e-12, atol=1e-12)


def test_constant_channels_are_dead_at_any_level():
    statistic = DeadChannels(4)
    values = torch.randn(10, 4, 3)
    values[:, 0], values[:, 1], values[:, 2] = 0.0, 123.456, 1e-3 * values[:, 2]
    for part in values.split(3):
        statistic.update(part)
    assert statistic.compute() == 0.5


@given(data())
@settings(deadline=None, max_examples=30)
def test_cosine_is_that_of_the_centred_vectors(case):
    values, sizes = case
    a = values[..., 0]
    b = values[..., 1] + 0.5 * a
    statistic, other = CenteredCosine(3), CenteredCosine(3)
    for i, (x, y) in enumerate(zip(a.split(sizes), b.split(sizes), strict=True)):
        (statistic if i % 2 else other).update(x, y)
    statistic.merge_state(other)
    expected = functional.cosine_similarity((a - a.mean(0)).flatten(), (b - b.mean(0)).flatten(), dim=0)
    torch.testing.assert_close(statistic.compute(), expected, rtol=1e-6, atol=1e-8)


def test_cosine_with_a_constant_is_zero():
    statistic = CenteredCosine(2)
    statistic.update(torch.randn(5, 2), torch.ones(5, 2))
    assert statistic.compute() == 0
