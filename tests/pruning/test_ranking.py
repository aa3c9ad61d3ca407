import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reflow_lightning.pruning import Magnitude, Scores
from reflow_lightning.pruning.criteria.chunks import flat_chunks
from reflow_lightning.pruning.ranking import cut_mask, rank
from reflow_lightning.pruning.scores import sort_keys

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


class Identity:
    """A criterion with negative scores."""

    def __call__(self, name, weight):
        return weight


def scores_of(tensors, criterion=None):
    return [Scores(str(i), t, criterion or Magnitude()) for i, t in enumerate(tensors)]


def plain_masks(tensors, keep, values=torch.abs):
    """The definition: sort everything, stably, and keep the last."""
    flat = torch.cat([values(t).double().flatten() for t in tensors])
    kept = torch.ones(len(flat), dtype=torch.bool)
    kept[flat.argsort(stable=True)[: len(flat) - keep]] = False
    return [part.view(t.shape) for part, t in zip(kept.split([t.numel() for t in tensors]), tensors, strict=True)]


@st.composite
def tensor_lists(draw):
    """Tensors with many ties, in any floating type, some empty, some not contiguous."""
    dtype = draw(st.sampled_from(DTYPES))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    levels = draw(st.sampled_from([1, 2, 5, 1000, None]))
    tensors = []
    for shape in draw(st.lists(st.sampled_from([(0,), (1,), (7,), (4, 5), (3, 2, 3)]), min_size=1, max_size=4)):
        values = torch.randn(shape, generator=generator)
        if levels:
            values = (values * levels).round() / levels
        values = values.to(dtype)
        tensors.append(values.t() if values.ndim == 2 and draw(st.booleans()) else values)
    return tensors


@given(tensor_lists(), st.floats(0, 1))
@settings(deadline=None, max_examples=150)
def test_masks_are_those_of_a_stable_sort(tensors, share):
    keep = round(share * sum(t.numel() for t in tensors))
    scores = scores_of(tensors)
    masks = [cut_mask(s, cut) for s, cut in zip(scores, rank(scores, keep), strict=True)]
    for mask, expected in zip(masks, plain_masks(tensors, keep), strict=True):
        assert torch.equal(mask, expected)


@given(tensor_lists(), st.floats(0, 1))
@settings(deadline=None, max_examples=60)
def test_scores_of_either_sign_are_ranked(tensors, share):
    tensors = [torch.where(t == 0, torch.ones_like(t), t) for t in tensors]  # a zero weight is ranked last of all
    keep = round(share * sum(t.numel() for t in tensors))
    scores = scores_of(tensors, Identity())
    masks = [cut_mask(s, cut) for s, cut in zip(scores, rank(scores, keep), strict=True)]
    for mask, expected in zip(masks, plain_masks(tensors, keep, lambda t: t), strict=True):
        assert torch.equal(mask, expected)


@given(st.integers(1, 400), st.integers(0, 10_000), st.sampled_from(DTYPES))
@settings(deadline=None, max_examples=60)
def test_threshold_is_that_of_kthvalue(k, seed, dtype):
    weight = torch.randn(400, generator=torch.Generator().manual_seed(seed)).to(dtype)
    [cut] = rank(scores_of([weight]), keep=400 - k + 1)
    expected = weight.abs().float().kthvalue(k).values if dtype != torch.float64 else weight.abs().kthvalue(k).values
    assert cut.key == int(sort_keys(expected.to(cut.dtype), cut.dtype))


@given(tensor_lists(), st.floats(0, 1), st.integers(0, 6))
@settings(deadline=None, max_examples=100)
def test_floors_are_kept_and_the_total_stays_exact(tensors, share, sigma):
    floors = [min(sigma, t.numel()) for t in tensors]
    total = sum(t.numel() for t in tensors)
    keep = sum(floors) + round(share * (total - sum(floors)))
    scores = scores_of(tensors)
    cuts = rank(scores, keep, floors)
    masks = [cut_mask(s, cut) for s, cut in zip(scores, cuts, strict=True)]
    assert [int(m.sum()) for m in masks] == [cut.kept for cut in cuts]
    assert sum(cut.kept for cut in cuts) == keep
    assert all(cut.kept >= floor for cut, floor in zip(cuts, floors, strict=True))


def test_floors_keep_the_most_magnitude_possible():
    big, small = torch.tensor([9.0, 8.0, 7.0, 6.0]), torch.tensor([0.3, 0.2, 0.1])
    scores = scores_of([big, small])
    masks = [cut_mask(s, cut) for s, cut in zip(scores, rank(scores, keep=4, floors=[1, 2]), strict=True)]
    assert masks[0].tolist() == [True, True, False, False]
    assert masks[1].tolist() == [True, True, False]


def test_tensors_larger_than_a_chunk_are_ranked_alike(monkeypatch):
    tensors = [torch.randn(50, 40).t(), (torch.randn(3000) * 3).round()]
    scores = scores_of(tensors)
    for room in ("scores", "criteria.magnitude"):
        monkeypatch.setattr(f"reflow_lightning.pruning.{room}.flat_chunks", lambda t: flat_chunks(t, 64))
    masks = [cut_mask(s, cut) for s, cut in zip(scores, rank(scores, 1234), strict=True)]
    for mask, expected in zip(masks, plain_masks(tensors, 1234), strict=True):
        assert torch.equal(mask, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_keys_order_like_the_values(dtype):
    info = torch.finfo(dtype)
    values = torch.tensor([-info.max, -1.0, -info.tiny, -0.0, 0.0, info.tiny, 1.0, info.max], dtype=dtype)
    keys = sort_keys(values, torch.float64 if dtype == torch.float64 else torch.float32)
    assert keys[3] == keys[4]
    assert (keys.diff() >= 0).all()
    assert keys.unique().numel() == 7


def test_extra_memory_is_a_small_part_of_the_weights():
    weights = [torch.randn(1000, 2000) for _ in range(4)]  # 32 MB
    scores = scores_of(weights)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        rank(scores, keep=1_600_000)
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    assert 0 < peak < 0.1 * sum(w.numel() * 4 for w in weights) + 4 * 2**20
