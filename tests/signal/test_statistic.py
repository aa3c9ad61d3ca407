import pickle
from copy import deepcopy

import pytest
import torch

from reflow_lightning.signal import (
    CenteredCosine,
    ClassShare,
    DeadChannels,
    LinearCKA,
    Moments,
    NeuronStates,
    Signs,
    neuron_states,
)
from reflow_lightning.signal.neurons import signs
from reflow_lightning.signal.statistic import computed
from reflow_lightning.signal.statistics import MergedMoments, moments

A, B = torch.randn(2, 12, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 4
PARTS = {  # what each statistic takes of some samples
    Moments: lambda rows: (A[rows],),
    MergedMoments: lambda rows: (moments(A[rows]),),
    DeadChannels: lambda rows: (A[rows] * torch.tensor([0, 1, 1]),),
    CenteredCosine: lambda rows: (A[rows], B[rows]),
    LinearCKA: lambda rows: (A[rows], B[rows]),
    ClassShare: lambda rows: (A[rows], LABELS[rows]),
    Signs: lambda rows: (signs(A[rows]),),
    NeuronStates: lambda rows: (neuron_states(A[rows], ceiling=1),),
}
every_statistic = pytest.mark.parametrize("kind", PARTS)


def seen(kind, *parts):
    statistic = kind(3)
    for rows in parts:
        statistic.update(*PARTS[kind](rows))
    return statistic


def values(statistic):
    found = statistic.compute()
    return found if isinstance(found, tuple) else (found,)


def assert_same(one, other):
    for a, b in zip(values(one), values(other), strict=True):
        assert torch.equal(a, b)


@every_statistic
def test_it_begins_anew_after_a_reset(kind):
    statistic = seen(kind, slice(0, 12))
    statistic.reset()
    assert_same(statistic, kind(3))
    statistic.update(*PARTS[kind](slice(4, 9)))
    assert_same(statistic, seen(kind, slice(4, 9)))


@every_statistic
def test_no_data_on_one_side_of_a_merge_change_nothing(kind):
    full, empty = seen(kind, slice(0, 12)), kind(3)
    empty.merge_state(full)
    assert_same(empty, full)
    full.merge_state(kind(3))
    assert_same(full, empty)


@every_statistic
def test_what_it_computed_belongs_to_the_caller(kind):
    statistic = seen(kind, slice(0, 12))
    for tensor in values(statistic):
        tensor.fill_(7)
    assert_same(statistic, seen(kind, slice(0, 12)))


@every_statistic
def test_copies_and_pickles_go_on_by_themselves(kind):
    statistic = seen(kind, slice(0, 5))
    for other in (deepcopy(statistic), pickle.loads(pickle.dumps(statistic))):
        other.update(*PARTS[kind](slice(5, 12)))
        assert_same(other, seen(kind, slice(0, 5), slice(5, 12)))
    assert_same(statistic, seen(kind, slice(0, 5)))


@every_statistic
def test_it_moves_to_a_device_with_all_that_it_will_begin_with_anew(kind):
    statistic = kind(3)
    assert statistic.to("meta") is statistic
    statistic.reset()
    assert all(getattr(statistic, name).is_meta for name in statistic.merges)


@every_statistic
def test_values_have_one_entry_a_channel_even_if_there_is_one_channel(kind):
    shapes = {tensor.shape for tensor in values(kind(1))}
    assert shapes <= {(), (1,)}
    assert len(shapes) == 1
    if isinstance(kind(1).compute(), tuple):
        assert shapes == {(1,)}


def test_statistics_are_computed_by_name():
    known = {"b": seen(Moments, slice(0, 12)), "a": Moments(3)}
    found = computed(known, lambda key, channels: pytest.fail("it has all of them"))
    assert list(found) == ["b", "a"]
    assert found["b"].values.tolist() == [12, 12, 12]
    assert found["a"].values.tolist() == [0, 0, 0]
