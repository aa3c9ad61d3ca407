from collections import namedtuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reflow_lightning.running.arguments import (
    as_arguments,
    batch_size,
    doubled,
    first_sample,
    map_samples,
    tensors_of,
)

CPU = torch.device("cpu")
SAMPLES, SHARED = torch.arange(6.0).view(2, 3), torch.eye(3)
NESTED = (SAMPLES, 0.5, None, [SAMPLES + 6, {"mask": SHARED}], torch.tensor(7.0))


def test_a_tensor_is_the_only_argument_and_a_tuple_holds_all():
    assert as_arguments(SAMPLES, CPU) == (SAMPLES,)
    assert as_arguments((SAMPLES, 2, None), CPU) == (SAMPLES, 2, None)
    assert type(as_arguments(namedtuple("Pair", "x y")(SAMPLES, 2), CPU)) is tuple


def test_tensors_are_moved_however_deep_they_lie_and_nothing_else_is_changed():
    moved = as_arguments(NESTED, torch.device("meta"))
    assert [tensor.device.type for tensor in tensors_of(moved)] == ["meta"] * 4
    assert moved[1:3] == (0.5, None)
    assert SAMPLES.device == CPU


@pytest.mark.parametrize("arguments", [(), (1, "name"), (torch.tensor(1.0),)])
def test_without_a_tensor_of_samples_it_is_one(arguments):
    assert batch_size(arguments) == 1


def test_the_first_sample_is_that_of_all_tensors_of_samples():
    first = first_sample(NESTED)
    assert [tuple(tensor.shape) for tensor in tensors_of(first)] == [(1, 3), (1, 3), (3, 3), ()]
    assert torch.equal(first[3][0], SAMPLES[:1] + 6)
    assert first[1:3] == (0.5, None)


@given(st.integers(1, 5), st.integers(1, 5))
def test_doubled_samples_are_twice_as_many_and_lie_elsewhere(samples, other):
    arguments = torch.rand(samples, 2), torch.rand(other), 3
    twice = doubled(arguments)
    assert batch_size(twice) == 2 * samples
    assert len(twice[1]) == (2 * other if other == samples else other)
    assert twice[0].data_ptr() != arguments[0].data_ptr()
    assert torch.equal(first_sample(twice)[0], first_sample(arguments)[0])


def test_what_holds_no_samples_may_be_mapped_to_something_else():
    assert map_samples(lambda _: "samples", (SAMPLES, 2, SHARED), lambda _: "other") == ("samples", "other", "other")
