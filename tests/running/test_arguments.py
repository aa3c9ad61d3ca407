from collections import namedtuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from reflow_lightning.running.arguments import (
    arguments_of_calls,
    as_arguments,
    batch_size,
    example_arguments,
    tensors_of,
)
from reflow_lightning.running.hooks import Call
from reflow_lightning.running.samples import doubled, first_sample, map_samples

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


class Names(nn.Module):
    def forward(self, x, y=None, **others):
        return x


class Positions(nn.Module):
    def forward(self, *values, **others):
        return values[0]


def test_a_mapping_of_arguments_is_an_example_by_name_and_another_one_is_taken_apart():
    assert example_arguments(Names(), {"x": 1, "y": 2}, CPU) == {"x": 1, "y": 2}
    assert example_arguments(nn.ReLU(), {"image": 1, "label": 2}, CPU) == (1,)
    assert example_arguments(nn.ReLU(), {"unknown": 1}, CPU) == ({"unknown": 1},)


def test_what_holds_samples_is_found_by_name_too():
    given = {"x": SAMPLES, "scale": 2, "mask": SHARED}
    assert batch_size(given) == 2
    assert [v if isinstance(v, int) else tuple(v.shape) for v in first_sample(given).values()] == [(1, 3), 2, (3, 3)]


def test_calls_by_position_and_by_name_get_one_form():
    calls = [Call((1,), {"y": 2}), Call((), {"x": 3, "y": 4})]
    assert arguments_of_calls(Names(), calls) == [{"x": 1, "y": 2}, {"x": 3, "y": 4}]
    assert arguments_of_calls(Positions(), [Call((1, 2), {})]) == [(1, 2)]


@pytest.mark.parametrize(
    ("module", "calls", "message"),
    [
        (Names(), [Call((1,), {}), Call((1, 2), {})], "Names is called with other arguments from call to call"),
        (Positions(), [Call((1,), {}), Call((1, 2), {})], "Positions is called with other arguments"),
        (Positions(), [Call((1,), {"y": 2})], "by position alone and others by name"),
    ],
)
def test_calls_that_have_no_one_form_are_refused(module, calls, message):
    with pytest.raises(ValueError, match=message):
        arguments_of_calls(module, calls)
