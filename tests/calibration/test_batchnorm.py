"""Population statistics against float64 statistics of all activations together."""

import copy

import pytest
import torch
from helpers import images
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from zoo.convolutional import small_net
from zoo.routed import Experts

from reflow_lightning import calibrate

RELATIVE = 1e-6


def check(layer: nn.Module, values: torch.Tensor) -> None:
    """The layer's statistics are those of the values (N, C, ...), computed in float64 at once."""
    flat = values.double().movedim(1, 0).flatten(1)
    mean, variance = flat.mean(1), flat.var(1, correction=0)
    scale = (variance.sqrt() + mean.abs()).clamp(min=1e-30)
    assert ((layer.running_mean.double() - mean).abs() <= RELATIVE * scale).all()
    assert ((layer.running_var.double() - variance).abs() <= RELATIVE * variance + 1e-12).all()


@st.composite
def splits(draw, shapes=((), (5,), (3, 2), (2, 2, 2))):
    """Values of any offset and scale, with unequal channels, cut into unequal batches."""
    sizes = draw(st.lists(st.integers(2, 9), min_size=1, max_size=6))
    shape = draw(st.sampled_from(shapes))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    offset = draw(st.sampled_from([0.0, 1.0, -30.0, 1e3]))
    scale = draw(st.sampled_from([1.0, 1e-2, 1e4]))
    values = (
        torch.randn(sum(sizes), 4, *shape, generator=generator) * scale * torch.arange(1, 5).view(-1, *[1] * len(shape))
    )
    values = values + offset * scale + torch.arange(sum(sizes)).view(-1, *[1] * (len(shape) + 1)) * scale  # sorted data
    return values, sizes


LAYERS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


@given(splits())
@settings(deadline=None, max_examples=80)
def test_equal_to_statistics_of_everything_whatever_the_split(split):
    values, sizes = split
    layer = LAYERS[values.ndim](4)
    calibrate(layer, values.split(sizes), max_batches=len(sizes))
    check(layer, values)
    assert layer.num_batches_tracked == len(sizes)


@pytest.mark.parametrize("affine", [True, False])
def test_sync_batchnorm_in_one_process(affine):
    layer = nn.SyncBatchNorm(4, affine=affine)
    values = torch.randn(20, 4, 3)
    calibrate(layer, values.split([7, 13]), max_batches=2)
    check(layer, values)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_inputs_are_accumulated_exactly(dtype):
    """20,000 values of one channel, which a narrow accumulator would lose, in a network with float32 statistics."""
    values = (torch.randn(200, 4, 100) + 50).to(dtype)
    layer = nn.BatchNorm1d(4)
    calibrate(layer, values.split(50), max_batches=4)
    check(layer, values)


def test_a_narrow_layer_gets_the_nearest_values_of_its_type():
    values = (torch.randn(100, 4) * 3 + 7).bfloat16()
    layer = nn.BatchNorm1d(4).bfloat16()
    calibrate(layer, values.split(25), max_batches=4)
    assert torch.equal(layer.running_mean, values.double().mean(0).bfloat16())
    assert torch.equal(layer.running_var, values.double().var(0, correction=0).bfloat16())


def test_every_call_of_a_layer_counts():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn = nn.BatchNorm1d(4)

        def forward(self, x):
            return self.bn(x), self.bn(3 * x + 1)

    model = Twice()
    values = torch.randn(12, 4)
    calibrate(model, values.split(5), max_batches=3)
    check(model.bn, torch.cat([values, 3 * values + 1]))


def test_the_layers_below_see_what_the_batch_statistics_above_give():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4), nn.BatchNorm1d(4))
    values = torch.randn(64, 4)
    calibrate(model, [values], max_batches=1)
    with torch.no_grad():
        check(model[4], model.eval()[:4](values))


def test_a_batch_with_one_value_a_channel_is_passed_over():
    layer = nn.BatchNorm1d(4)
    values = torch.randn(9, 4)
    calibrate(layer, values.split([4, 4, 1]), max_batches=3)
    check(layer, values[:8])
    assert layer.num_batches_tracked == 2
    with pytest.raises(ValueError, match="every batch gives a BatchNorm layer one value"):
        calibrate(layer, values.split(1), max_batches=9)


def test_equal_to_fvcore_on_equal_batches():
    precise_bn = pytest.importorskip("fvcore.nn.precise_bn")
    batches = list(torch.randn(60, 4, 5, 5).split(12))
    ours, theirs = (
        nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 1), nn.BatchNorm2d(2))
        for _ in "ab"
    )
    theirs.load_state_dict(ours.state_dict())
    calibrate(ours, batches, max_batches=5)
    precise_bn.update_bn_stats(theirs.train(), batches, num_iters=5)
    for layer in (1, 4):
        torch.testing.assert_close(ours[layer].running_mean, theirs[layer].running_mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(ours[layer].running_var, theirs[layer].running_var, rtol=1e-5, atol=1e-6)


def test_a_batch_that_is_passed_over_counts_in_no_layer():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Flatten(), nn.BatchNorm1d(8))
    values = torch.randn(9, 4, 2)
    values[8] += 100  # alone in its batch: two values a channel above, one below
    calibrate(model, values.split([4, 4, 1]), max_batches=3)
    check(model[0], values[:8])
    assert model[0].num_batches_tracked == model[2].num_batches_tracked == 2
    wrapped = nn.ModuleDict({"bn": nn.BatchNorm1d(4)})
    wrapped.forward = lambda batch: wrapped["bn"](batch["a"])
    calibrate(wrapped, [{"a": part} for part in values[..., 0].split([4, 4, 1])], max_batches=3)
    check(wrapped["bn"], values[:8, :, 0])


def test_an_expert_that_gets_no_row_of_a_batch_does_not_cost_the_batch():
    model, x = Experts(norm=True), torch.randn(16, 8)
    nn.init.constant_(model.gate.bias.detach()[:1], 100.0)
    with pytest.warns(UserWarning, match=r"left alone experts\.1\.1: no batch reached them"):
        result = calibrate(model, [x], repair="batchnorm", max_batches=1)
    assert result.repaired == ("experts.0.1",)


def test_a_forward_pass_that_calls_eval_is_calibrated_as_any_other():
    def as_detectors_do(network, batch):
        network.eval()
        return network(batch)

    model = small_net().train()
    expected, batches = copy.deepcopy(model), list(images(48).split(16))
    calibrate(model, batches, forward=as_detectors_do, repair="batchnorm", max_batches=3)
    calibrate(expected, batches, repair="batchnorm", max_batches=3)
    assert all(module.training for module in model.modules())
    for name, value in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


class Folds(nn.Module):
    """In evaluation it folds its BatchNorm layer into the linear one, and never calls it."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4)
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        if self.training:
            return self.norm(self.linear(x))
        factor = self.norm.weight / (self.norm.running_var + self.norm.eps).sqrt()
        return nn.functional.linear(
            x, self.linear.weight * factor[:, None], self.norm.bias - self.norm.running_mean * factor
        )


@pytest.mark.parametrize("repair", ["batchnorm", "auto", "reconstruct"])
def test_statistics_that_a_block_reads_without_a_call_are_those_of_before(repair):
    model, x = nn.Sequential(Folds(), nn.Linear(4, 4), nn.BatchNorm1d(4)).eval(), torch.randn(64, 4)
    before = model[0](x)
    with pytest.warns(UserWarning, match="left alone"):
        result = calibrate(model, [x], repair=repair, reference=copy.deepcopy(model))
    assert result.skipped["0.norm"] == "no batch reached it"
    assert torch.equal(model[0](x), before)
    values = model[:2](x)
    torch.testing.assert_close(model[2].running_mean, values.mean(0).detach(), rtol=1e-5, atol=1e-5)
