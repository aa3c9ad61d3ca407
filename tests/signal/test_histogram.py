"""Histograms of activations."""

import numpy as np
import pytest
import torch
from helpers import images
from hypothesis import given
from hypothesis import strategies as st
from zoo.convolutional import small_net

from reflow_lightning import measure_signal
from reflow_lightning.signal import SignalReport, ValueCounts, plot_histograms, value_counts
from reflow_lightning.signal.histogram import EDGES


@given(st.lists(st.floats(-9e4, 9e4, width=32), min_size=1, max_size=50))
def test_values_are_counted_as_numpy_does(values):
    counts = value_counts(torch.tensor(values)[:, None, None])
    expected, _ = np.histogram(np.array(values, np.float32), np.array(EDGES, np.float32))
    assert counts.tolist() == expected.tolist()


def test_of_many_values_some_thousand_are_taken_from_every_channel_and_position():
    values = torch.arange(64.0).repeat(512, 1).reshape(512, 8, 8)  # each channel and position has one value
    total = value_counts(values).sum().item()
    assert 2048 <= total <= 8192
    assert value_counts(values).nonzero().numel() == value_counts(values[:1]).nonzero().numel()


@pytest.mark.parametrize("shape", [(16, 768, 197), (8, 512, 49), (2048, 147, 2)])
def test_the_values_that_are_taken_favour_no_channel_and_no_position(shape):
    for dimension in (1, 2):
        values = torch.ones(shape)
        values.select(dimension, 0).zero_()
        counts = value_counts(values)
        zeros, expected = counts.sum() - counts.max(), counts.sum() / shape[dimension]
        assert abs(zeros - expected) < 5 * expected.sqrt()


def test_padding_is_not_counted_and_what_is_no_number_neither():
    values = torch.tensor([[[1.0, 7.0]], [[float("nan"), 1.0]]])
    valid = torch.tensor([[True, False], [True, True]])
    statistic = ValueCounts(1)
    statistic.update(value_counts(values, valid))
    assert statistic.compute().counts == (2,)
    low, high = statistic.compute().edges
    assert low <= 1.0 < high


def test_infinite_values_count_at_the_ends():
    statistic = ValueCounts(1)
    statistic.update(value_counts(torch.tensor([[[float("inf"), -float("inf")]]])))
    found = statistic.compute()
    assert (found.counts[0], found.counts[-1], found.edges[0], found.edges[-1]) == (1, 1, EDGES[0], EDGES[-1])


def test_parts_add_up_and_without_data_there_is_one_empty_bin():
    x = torch.randn(6, 2, 3)
    whole, parts = ValueCounts(2), ValueCounts(2)
    assert whole.compute().counts == (0,)
    whole.update(value_counts(x))
    parts.update(value_counts(x[:2]), value_counts(x[2:]))
    assert parts.compute() == whole.compute()


def test_a_signal_has_histograms_if_they_are_asked_for(tmp_path):
    batches = [images(16)]
    assert not measure_signal(small_net(), batches, max_batches=1).histograms
    found = measure_signal(small_net(), batches, max_batches=1, metrics=["variance", "histogram"])
    assert list(found.histograms) == [row.name for row in found.rows]
    assert SignalReport.from_dict(found.to_dict()) == found
    figure = plot_histograms({"dense": found, "pruned": found}, ["1", "9"], "title")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["1", "9"]
    figure.savefig(tmp_path / "figure.png")
