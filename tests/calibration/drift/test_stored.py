"""A running average without its initial values is the average of the batches alone, weighted as torch weights them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from reflow_lightning.calibration.drift.stored import nearest, remembered, settled


@given(st.integers(1, 60), st.sampled_from([0.5, 0.3, 0.1, 0.03, 0.01, 0.003]), st.integers(0, 9))
@settings(deadline=None, max_examples=40)
def test_what_the_number_of_batches_tells_is_taken_off_exactly(count, momentum, seed):
    layer = nn.BatchNorm1d(3, momentum=momentum).double()
    means, variances = [], []
    for x in torch.randn(count, 16, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3 + 1:
        layer(x)
        means.append(x.mean(0).numpy())
        variances.append(x.var(0).numpy())
    weights = (1 - momentum) ** np.arange(count)[::-1]
    mean, variance = settled(layer)
    np.testing.assert_allclose(mean[-1], np.average(means, axis=0, weights=weights), rtol=1e-6)
    np.testing.assert_allclose(variance[-1], np.average(variances, axis=0, weights=weights), rtol=1e-6)


def test_the_first_are_the_stored_ones_and_no_variance_is_negative():
    layer = nn.BatchNorm1d(4)
    layer.running_mean.copy_(torch.arange(4.0))
    layer.running_var.copy_(torch.tensor([0.5, 0.9, 2.0, 7.0]))
    mean, variance = settled(layer)
    assert torch.equal(mean[0].float(), layer.running_mean)
    assert torch.equal(variance[0].float(), layer.running_var)
    assert bool((variance >= 0).all())


def test_a_number_of_batches_that_the_variances_contradict_tells_nothing():
    layer = nn.BatchNorm1d(2)
    layer.num_batches_tracked.fill_(1)  # 0.9 would be left of a variance of 1
    layer.running_var.copy_(torch.tensor([0.2, 3.0]))
    assert torch.equal(settled(layer)[1][-1], layer.running_var.double())


def test_a_share_that_nothing_tells_must_explain_most_of_a_distance():
    assert nearest(torch.tensor([1.0, 0.5, 0.9])) == 2
    assert nearest(torch.tensor([1.0, 0.01, 0.9])) == 1
    assert nearest(torch.tensor([0.1, 0.09, 0.9])) == 0


@pytest.mark.parametrize(("momentum", "seen", "batches"), [(0.1, 1000, 19), (0.1, 4, 4), (None, 7, 7), (0.5, 0, 3)])
def test_an_average_is_as_noisy_as_a_mean_of_so_many_batches(momentum, seen, batches):
    layer = nn.BatchNorm1d(1, momentum=momentum)
    layer.num_batches_tracked.fill_(seen)
    assert remembered(layer) == pytest.approx(batches)
