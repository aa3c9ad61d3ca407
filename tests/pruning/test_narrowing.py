"""A sample of the keys tells which few may be the threshold; the cut is the same without it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reflow_lightning.pruning import Magnitude, Scores, narrowing, radix
from reflow_lightning.pruning.ranking import cut_mask, rank


def scores_of(tensors):
    return [Scores(str(i), t, Magnitude()) for i, t in enumerate(tensors)]


def masks_of(tensors, keep, floors=None):
    scores = scores_of(tensors)
    return [cut_mask(s, cut) for s, cut in zip(scores, rank(scores, keep, floors), strict=True)]


@pytest.fixture
def sampled(monkeypatch):
    """Says how many weights a sample is of, so that small tensors are sampled too."""
    return lambda number: monkeypatch.setattr(narrowing, "SAMPLE", number)


@pytest.fixture
def passes(monkeypatch):
    """The number of passes over each tensor's keys."""
    counted = []
    keys = Scores.keys

    def counting(self, dtype):
        counted.append(self.name)
        return keys(self, dtype)

    monkeypatch.setattr(Scores, "keys", counting)
    return counted


@st.composite
def tensor_lists(draw):
    """Tensors of very unlike scales, with and without ties and zeros, in some floating type."""
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    tensors = []
    for size in draw(st.lists(st.sampled_from([0, 1, 30, 500, 3000]), min_size=1, max_size=4)):
        values = torch.randn(size, generator=generator) * draw(st.sampled_from([1e-3, 1.0, 100.0]))
        if draw(st.booleans()):
            values = values.round()
        tensors.append(values.to(dtype))
    return tensors


@given(tensor_lists(), st.floats(0, 1), st.sampled_from([0, 3, 400]), st.sampled_from([1, 20, 300]))
@settings(deadline=None, max_examples=150)
def test_the_masks_are_those_of_a_look_at_all_keys(tensors, share, sigma, number):
    floors = [min(sigma, len(t)) for t in tensors]
    keep = sum(floors) + round(share * (sum(map(len, tensors)) - sum(floors)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(narrowing, "SAMPLE", 10**9)
        expected = masks_of(tensors, keep, floors)
        patch.setattr(narrowing, "SAMPLE", number)
        patch.setattr(narrowing, "_MOST", 1.0)
        found = masks_of(tensors, keep, floors)
    assert all(map(torch.equal, found, expected))


def test_two_passes_find_the_threshold_among_few_keys(sampled, passes, monkeypatch):
    sampled(1 << 16)
    looked_at = []
    digits = radix._histogram
    monkeypatch.setattr(radix, "_histogram", lambda keys, *rest: (looked_at.append(len(keys)), digits(keys, *rest))[1])
    tensors = [torch.randn(300_000), torch.randn(700_000)]
    rank(scores_of(tensors), 200_000)
    assert passes == ["0", "1"] * 2
    assert sum(looked_at) < 0.5 * 1_000_000  # nine digits of the sample and of the keys near the threshold


def test_a_sample_that_misleads_costs_time_alone(sampled, passes):
    sampled(100)
    step = 101  # the first number from 10,100 // 100 on that has no divisor below 11
    weight = torch.randn(10_100)
    weight[::step] = 1000.0  # all that the sample sees
    [mask] = masks_of([weight], 2000)
    assert torch.equal(mask, weight.abs() >= weight.abs().sort().values[-2000])
    assert len(passes) == 2 + 3 + 1


def test_equal_keys_are_not_held_by_the_million(sampled, passes):
    sampled(100)
    weight = torch.ones(100_000)
    [mask] = masks_of([weight], 30_000)
    assert mask.nonzero().flatten().tolist() == list(range(70_000, 100_000))
    assert len(passes) == 2 + 3 + 1


def test_few_keys_are_looked_at_directly(passes):
    masks_of([torch.randn(1000)], 100)
    assert len(passes) == 3 + 1
