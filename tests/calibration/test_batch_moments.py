"""Moments of what a BatchNorm layer was called with, from its own statistics: as exact as those of a second pass."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from zoo.convolutional import small_net

from reflow_lightning import calibrate
from reflow_lightning.calibration import batch_moments as module
from reflow_lightning.calibration.batch_moments import batch_moments, keep_the_batch_alone
from reflow_lightning.signal.statistics import merge_moments


def pooled(batches):
    """Mean and variance that a layer gives for all batches together."""
    layer = nn.BatchNorm2d(batches[0].shape[1]).to(batches[0].dtype)
    keep_the_batch_alone(layer)
    parts = []
    for batch in batches:
        layer(batch)
        parts.append(batch_moments(layer, batch))
    count, mean, squares = merge_moments(torch.stack(parts))
    return mean, squares / count


def check(batches):
    mean, variance = pooled(batches)
    values = torch.cat([batch.double().movedim(1, 0).flatten(1) for batch in batches], 1)
    expected = values.var(1, correction=0)
    assert ((mean - values.mean(1)).abs() <= 1e-6 * (expected.sqrt() + values.mean(1).abs())).all()
    assert ((variance - expected).abs() <= 1e-6 * expected + 1e-30).all()


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=5),
    st.lists(st.sampled_from([0.0, 0.1, 1.0, 3.0, 3.9, 4.1, 30.0, 1e3, 1e5]), min_size=3, max_size=3),
    st.sampled_from([1e-12, 1e-3, 1.0, 1e6]),
    st.sampled_from([0.0, 0.5, 20.0]),
    st.integers(0, 2**31),
)
@settings(deadline=None, max_examples=150)
def test_exact_however_far_the_means_are_and_however_much_the_batches_differ(sizes, offsets, scale, between, seed):
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for size in sizes:
        values = torch.randn(size, 3, 2, 3, generator=generator) + torch.tensor(offsets).view(3, 1, 1)
        batches.append((values + between * torch.randn((), generator=generator)) * scale)
    check(batches)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("offset", [0.0, 3.0, 1e3])
def test_exact_in_every_layout(dtype, offset):
    values = (torch.randn(40, 4, 32, 32, dtype=torch.float64) + offset).to(dtype)
    for laid_out in (
        values,
        values.contiguous(memory_format=torch.channels_last),
        values.transpose(0, 1).contiguous().transpose(0, 1),
        values[:, :, ::2],
        values[..., :1, :1],
    ):
        check(list(laid_out.split([7, 33])))


def test_a_constant_channel_has_no_variance():
    values = torch.full((4, 2, 3, 3), 5.1)
    values[:, 1] = 0
    mean, variance = pooled([values, values])
    assert mean.tolist() == [pytest.approx(5.1), 0]
    assert variance.abs().max() < 1e-12


def test_a_batch_of_nan_spoils_no_other():
    layer = nn.BatchNorm2d(2)
    keep_the_batch_alone(layer)
    for odd in (float("nan"), float("inf")):
        values = torch.full((2, 2, 3, 3), odd)
        layer(values)
        assert not batch_moments(layer, values)[1:].isfinite().any()
        values = torch.randn(2, 2, 3, 3)
        layer(values)
        assert torch.allclose(batch_moments(layer, values), module.moments(values))


class Keeps(nn.Module):
    """A layer that keeps no statistics of what it gets, in one of several ways."""

    def __init__(self, way):
        super().__init__()
        self.bn, self.way = nn.BatchNorm2d(3), way
        if way == "patched":
            self.bn.forward = lambda x: x * 2

    def forward(self, x):
        if self.way == "frozen":
            self.bn.eval()
        elif self.way == "untracked":
            self.bn.track_running_stats = False
        return self.bn(x)


@pytest.mark.parametrize("way", ["frozen", "untracked", "patched"])
def test_what_a_layer_did_not_keep_is_read(way):
    model, batches = Keeps(way), list((torch.randn(12, 3, 4, 4) + 1).split(5))
    calibrate(model, batches, repair="batchnorm", max_batches=3)
    values = torch.cat(batches).double()
    torch.testing.assert_close(model.bn.running_mean.double(), values.mean((0, 2, 3)), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(model.bn.running_var.double(), values.var((0, 2, 3), correction=0), rtol=1e-6, atol=1e-6)


def test_another_momentum_is_put_back():
    for momentum in (0.3, None):
        layer = nn.BatchNorm2d(3, momentum=momentum)
        calibrate(layer, [torch.randn(4, 3, 2, 2)], max_batches=1)
        assert layer.momentum == momentum


# -- what it costs


class Wide(TorchDispatchMode):
    """Notes the sizes of the tensors of float64 that are made."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.dtype == torch.float64:
            self.sizes.append(out.numel())
        return out


def test_activations_are_read_once_and_never_held_in_float64(monkeypatch):
    read = []
    monkeypatch.setattr(module, "moments", lambda values: read.append(values.shape))
    model, batches = small_net(), list(torch.randn(64, 1, 6, 6).split(16))
    channels = sum(m.num_features for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    with Wide() as wide:
        calibrate(model, batches, repair="batchnorm", max_batches=4)
    assert read == []
    assert max(wide.sizes) <= 6 * channels


def test_of_a_channel_far_from_zero_that_one_alone_is_read_again(monkeypatch):
    read, moments = [], module.moments
    monkeypatch.setattr(module, "moments", lambda values: read.append(values.shape) or moments(values))
    calibrate(
        nn.BatchNorm2d(3), [torch.randn(8, 3, 4, 4) + torch.tensor([0.0, 50.0, 1.0]).view(3, 1, 1)], max_batches=1
    )
    assert read == [(8, 1, 4, 4)]
