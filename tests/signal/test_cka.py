import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reflow_lightning.signal import LinearCKA
from reflow_lightning.signal.cka import gram, merge_grams


def by_samples(a, b):
    """The same from the matrices of samples by samples, centred on both sides: HSIC's way to write it."""
    n = len(a)
    centring = torch.eye(n, dtype=torch.float64) - 1 / n
    k, q = (centring @ x @ x.T @ centring for x in (a, b))
    return (k * q).sum() / (k.norm() * q.norm())


def cka(a, b, **how):
    statistic = LinearCKA(a.shape[1], **how)
    statistic.update(a, b)
    return statistic.compute()


@st.composite
def pairs(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    sizes = draw(st.lists(st.integers(1, 8), min_size=2, max_size=5))
    a, noise = torch.randn(2, sum(sizes), 3, generator=generator, dtype=torch.float64)
    return a + draw(st.sampled_from([0.0, 100.0, 1e5])), noise + 0.5 * a, sizes


@given(pairs())
@settings(deadline=None)
def test_it_is_that_of_the_sample_matrices_however_the_samples_are_split(case):
    a, b, sizes = case
    expected = by_samples(a - a.mean(0), b - b.mean(0))
    parts, reverse = LinearCKA(3), LinearCKA(3)
    batches = list(zip(a.split(sizes), b.split(sizes), strict=True))
    for x, y in batches:
        parts.update(x, y)
    for x, y in reversed(batches):
        reverse.update(x, y)
    for found in (cka(a, b), parts.compute(), reverse.compute()):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


@given(pairs())
@settings(deadline=None, max_examples=30)
def test_states_of_processes_merge(case):
    a, b, sizes = case
    first, second = LinearCKA(3), LinearCKA(3)
    first.update(a[: sizes[0]], b[: sizes[0]])
    second.update(a[sizes[0] :], b[sizes[0] :])
    first.merge_state(second)
    first.merge_state(LinearCKA(3))  # a process without data
    torch.testing.assert_close(first.compute(), cka(a, b), rtol=1e-6, atol=1e-9)


def test_merged_grams_are_those_of_all_samples():
    values = torch.randn(20, 4, dtype=torch.float64) + 7
    merged = merge_grams(gram(values[:3]), gram(values[3:]))
    torch.testing.assert_close(merged, gram(values))
    torch.testing.assert_close(merged[2:], torch.cov(values.T, correction=0) * 20)


def test_turned_scaled_and_shifted_channels_tell_the_same():
    values = torch.randn(40, 6, dtype=torch.float64)
    turned, _ = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))
    assert cka(values, values) == pytest.approx(1)
    assert cka(values, 0.01 * values @ turned + 3) == pytest.approx(1)


def test_channels_that_have_nothing_to_do_with_each_other_give_zero():
    a, b = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]]), torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    assert cka(a, b) == 0


def test_a_constant_gives_zero_and_nan_stays_nan():
    assert cka(torch.randn(5, 2), torch.ones(5, 2)) == 0
    assert cka(torch.full((5, 2), torch.nan), torch.randn(5, 2)).isnan()


def test_of_a_wide_layer_channels_spread_evenly_are_compared():
    a, b = torch.randn(2, 50, 9)
    chosen = [0, 4, 8]
    assert cka(a, b, widest=3) == pytest.approx(float(cka(a[:, chosen], b[:, chosen])))
    statistic = LinearCKA(100_000)
    for _ in range(5):
        statistic.update(torch.randn(200, 100_000), torch.randn(200, 100_000))
        assert statistic.state.numel() < 2**21
        assert statistic.rows.numel() < 2**18
