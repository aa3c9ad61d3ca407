"""Batches whose samples are blended in pairs."""

import math
from collections import UserDict
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reflow_lightning.calibration.blending import blended, is_blended


class Sample(NamedTuple):
    image: torch.Tensor
    label: torch.Tensor


@given(st.integers(2, 9), st.integers(0, 99))
def test_each_sample_lies_between_itself_and_one_other(count, seed):
    inputs = torch.randn(count, 3, 2)
    found = blended(inputs, seed)
    for place, sample in enumerate(found):
        moved = sample - inputs[place]
        shares = [
            (moved * (other - inputs[place])).sum() / (other - inputs[place]).square().sum()
            for number, other in enumerate(inputs)
            if number != place
        ]
        others = [other for number, other in enumerate(inputs) if number != place]
        fits = [
            0 <= share <= 1 and torch.allclose(moved, share * (other - inputs[place]), atol=1e-5)
            for share, other in zip(shares, others, strict=True)
        ]
        assert any(fits)


@pytest.mark.parametrize(
    "batch",
    [
        torch.arange(6).view(3, 2),
        torch.zeros(3),
        torch.zeros(1, 2),
        torch.tensor([[0.0, math.inf], [1.0, 2.0]]),
        (),
        [[torch.zeros(3, 4, 4), torch.zeros(3, 5, 5)], "boxes"],
        [[torch.zeros(3, 4), torch.zeros(3, 4)], torch.zeros(3)],
        {"one": torch.zeros(3, 2), "other": torch.zeros(3, 2)},
        {"tokens": torch.arange(6).view(3, 2), "mask": torch.ones(3, 2)},
        UserDict(input_ids=torch.arange(6).view(3, 2), attention_mask=torch.ones(3, 2)),
        torch.eye(3).to_sparse(),
        torch.nn.utils.rnn.pack_sequence([torch.zeros(3, 2), torch.zeros(2, 2)]),
        "text",
        None,
    ],
    ids=str,
)
def test_what_has_nothing_between_stays_as_it_is(batch):
    assert blended(batch, 0) is batch


@pytest.mark.parametrize(
    ("make", "image"),
    [
        (lambda x, y: (x, y), lambda b: b[0]),
        (lambda x, y: [x, y], lambda b: b[0]),
        (Sample, lambda b: b.image),
        (lambda x, y: {"pixel_values": x, "labels": y}, lambda b: b["pixel_values"]),
        (lambda x, y: UserDict(x=x, labels=y), lambda b: b["x"]),
        (lambda x, y: MappingProxyType({"x": x, "labels": y}), lambda b: b["x"]),
        (lambda x, y: {"pixels": x, "labels": y, "name": "a"}, lambda b: b["pixels"]),
        (lambda x, y: ({"image": x}, y), lambda b: b[0]["image"]),
    ],
    ids=["tuple", "list", "namedtuple", "mapping", "own mapping", "immutable mapping", "other key", "mapping first"],
)
def test_the_input_alone_is_blended_in_batches_of_any_form_which_stay_as_they_were(make, image):
    x, y = torch.randn(4, 3), torch.arange(4)
    batch = make(x, y)
    found = blended(batch, 1)
    assert type(found) is type(batch)
    assert torch.equal(image(found), blended(x, 1))
    assert torch.equal(image(batch), x)
    assert not torch.equal(image(found), x)
    assert (found["labels"] if isinstance(found, Mapping) else found[1]) is y


def test_a_seed_gives_the_same_and_another_one_others_and_no_random_state_is_touched():
    x, before = torch.randn(8, 3), torch.get_rng_state()
    assert torch.equal(blended(x, 1), blended(x, 1))
    assert not torch.equal(blended(x, 1), blended(x, 2))
    assert torch.equal(torch.get_rng_state(), before)


@given(st.integers(1, 300), st.floats(0, 1))
def test_the_share_of_all_steps_is_kept(steps, share):
    assert sum(is_blended(step, share) for step in range(1, steps + 1)) == int(steps * share)
