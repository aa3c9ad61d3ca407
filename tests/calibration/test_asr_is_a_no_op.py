"""Rescaling channels before an exact re-estimation of BatchNorm changes nothing, as benchmarks/asr.py measures."""

import copy
from itertools import pairwise

import pytest
import torch
from asr import ESTIMATORS, batch_moments, running_average
from asr_repair import Rescaling, channel_factors, convolution_outputs, layer_factors, rescale
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from reflow_lightning import calibrate, prune

BATCHES = 5
SMALL_EPS = 1e-14


def network(eps: float, bias: bool, seed: int = 0) -> nn.Sequential:
    """Convolutions that BatchNorm follows, half of their weights pruned, in float64."""
    torch.manual_seed(seed)
    channels = (2, 4, 6, 3)
    layers = [
        layer
        for few, many in pairwise(channels)
        for layer in (nn.Conv2d(few, many, 3, padding=1, bias=bias), nn.BatchNorm2d(many, eps=eps), nn.ReLU())
    ]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)).double().eval()
    for layer in net:
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 2)
            nn.init.normal_(layer.bias)
    prune(net, 0.5)
    return net


def batches(seed: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(BATCHES, 8, 2, 6, 6, generator=generator, dtype=torch.float64))


@torch.no_grad()
def moved(net: nn.Module, other: nn.Module) -> float:
    """Standard deviation of the outputs' difference over that of the outputs."""
    inputs = batches(seed=2)[0]
    return float((other.eval()(inputs) - net.eval()(inputs)).std() / net(inputs).std())


@st.composite
def rescaled(draw, eps: float):
    """A network, and a copy of which each convolution gives ``gain * y + shift``."""
    net = network(eps, bias=draw(st.booleans()), seed=draw(st.integers(0, 1000)))
    other = copy.deepcopy(net)
    for layer in other:
        if isinstance(layer, nn.Conv2d):
            size = layer.out_channels
            exponents = draw(st.lists(st.floats(-2, 2), min_size=size, max_size=size))
            shifts = draw(st.lists(st.floats(-10, 10), min_size=size, max_size=size))
            rescale(layer, 10 ** torch.tensor(exponents), torch.tensor(shifts))
    return net, other


def re_estimate(net: nn.Module) -> None:
    calibrate(net, batches(), repair="batchnorm", max_batches=BATCHES)


@given(rescaled(eps=SMALL_EPS))
@settings(deadline=None, max_examples=30)
def test_any_rescaling_and_shift_before_exact_statistics_gives_the_same_function(pair):
    net, other = pair
    re_estimate(net)
    re_estimate(other)
    assert moved(net, other) < 1e-5


def test_what_is_left_is_in_proportion_to_the_eps_of_batchnorm():
    large, small = (moved(*re_estimated_and_rescaled(eps)) for eps in (1e-4, 1e-6))
    assert 1e-6 < small < large < 0.05
    assert 50 < large / small < 200


def re_estimated_and_rescaled(eps: float) -> tuple[nn.Module, nn.Module]:
    net = network(eps, bias=True)
    other = copy.deepcopy(net)
    rescale_all(other, 0.5)
    re_estimate(net)
    re_estimate(other)
    return net, other


def rescale_all(net: nn.Sequential, gain: float) -> None:
    for layer in net:
        if isinstance(layer, nn.Conv2d):
            rescale(layer, torch.full((layer.out_channels,), gain), torch.zeros(layer.out_channels))


@pytest.mark.parametrize("estimator", ["EMA, reset", "EMA, dense kept"])
@pytest.mark.parametrize("gain", [0.1, 3.0])
def test_before_a_running_average_of_few_batches_it_gives_another_function(estimator, gain):
    net = network(1e-5, bias=True)
    other = copy.deepcopy(net)
    rescale_all(other, gain)
    for each in (net, other):
        ESTIMATORS[estimator](each, batch_moments(each, batches()))
    assert moved(net, other) > 0.05


@pytest.mark.parametrize("estimator", ["exact", "EMA, dense kept"])
def test_what_the_benchmark_reads_off_one_pass_is_what_calibrate_and_pytorch_give(estimator):
    net = network(1e-5, bias=False)
    expected = copy.deepcopy(net)
    ESTIMATORS[estimator](net, batch_moments(net, batches()))
    if estimator == "exact":
        re_estimate(expected)
    else:
        expected.train()
        for batch in batches():
            expected(batch)
    for name, value in expected.state_dict().items():
        if "running" in name:
            torch.testing.assert_close(net.state_dict()[name], value)


@pytest.mark.parametrize("bias", [True, False])
def test_asr_gives_channels_the_means_of_the_dense_network_and_is_undone_bit_for_bit(bias):
    dense = network(1e-5, bias)
    net = copy.deepcopy(dense)
    prune(net, 0.8)
    before = copy.deepcopy(net.state_dict())
    result = calibrate(net, batches()[:1], repair=Rescaling(), reference=dense, max_batches=1)
    assert result.repaired == ("3", "6")  # not the first
    assert ((net[3].weight == 0) == (before["3.weight"] == 0)).all()
    found, wanted = (convolution_outputs(each, batches()[:1], lambda model, x: model(x)) for each in (net, dense))
    torch.testing.assert_close(found["3"].mean, wanted["3"].mean)
    result.undo()
    after = net.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_factors_match_the_variance_where_they_are_trusted():
    dense, pruned = torch.tensor([4.0, 4.0, 4.0]).double(), torch.tensor([1.0, 1.0, 0.0]).double()
    torch.testing.assert_close(layer_factors(dense, pruned), torch.full((3,), 6**0.5).double())
    torch.testing.assert_close(channel_factors(dense, pruned), torch.tensor([1.5, 1.5, 1.0]).double())


def test_a_rescaling_without_the_dense_network_says_so():
    with pytest.raises(ValueError, match="reference=None"):
        calibrate(network(1e-5, bias=True), batches(), repair=Rescaling(), max_batches=1)


def test_a_running_average_keeps_nine_tenths_of_the_old_statistics_a_batch():
    net = nn.Sequential(nn.BatchNorm2d(2)).double()
    running_average(net, batch_moments(net, [torch.zeros(8, 2, 6, 6).double()] * BATCHES))
    torch.testing.assert_close(net[0].running_var, torch.full((2,), 0.9**BATCHES).double())
