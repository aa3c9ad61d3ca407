"""Which BatchNorm layers keep the mean and the variance of each channel, found out by trying those of other classes."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from reflow_lightning.calibration.batchnorm import not_calibrated
from reflow_lightning.layers.statistics import batchnorm_layers, no_statistics


class Own(nn.BatchNorm2d):
    def forward(self, x):
        return functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        ).relu()


class ByHand(nn.BatchNorm2d):
    def forward(self, x):
        mean, variance = self.running_mean[:, None, None], self.running_var[:, None, None]
        return (x - mean) / (variance + self.eps).sqrt()


class Counting(Own):
    def __init__(self, channels):
        super().__init__(channels)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        self.calls += torch.rand(1)
        return super().forward(x)


class WithCondition(nn.BatchNorm2d):
    def forward(self, x, condition):
        return super().forward(x) * condition


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.SyncBatchNorm, Own, ByHand, Counting, WithCondition])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_those_that_normalise_by_them_are_found_and_left_as_they_were(kind, dtype):
    norm = kind(6).to(dtype).train()
    before, state = copy.deepcopy(norm.state_dict()), torch.get_rng_state()
    assert list(batchnorm_layers(nn.Sequential(norm))) == ["0"]
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())
    assert norm.training
    assert torch.equal(state, torch.get_rng_state())


class Deviation(nn.BatchNorm2d):
    def forward(self, x):
        return functional.batch_norm(x, self.running_mean, self.running_var**2, self.weight, self.bias)


class Shifted(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) + self.running_mean[:, None, None]


class Last(nn.BatchNorm1d):
    def forward(self, x):
        return super().forward(x.flatten(0, -2)).view_as(x)


class Refusing(nn.BatchNorm2d):
    def forward(self, x):
        raise RuntimeError("no")


@pytest.mark.parametrize("kind", [Deviation, Shifted, Last, Refusing])
def test_those_that_do_otherwise_are_named(kind):
    model = nn.Sequential(kind(6))
    assert batchnorm_layers(model) == {}
    assert kind.__name__ in not_calibrated(model)["0"]


def test_statistics_of_another_shape_or_type_or_in_another_place_are_told():
    norm = nn.BatchNorm2d(4)
    norm.running_var = torch.ones(8)
    assert no_statistics(norm) == (
        "BatchNorm2d keeps running statistics of shape (8,) of torch.float32, not one for each of 4 channels"
    )
    norm.running_var = torch.ones(4, dtype=torch.int64)
    assert "of torch.int64" in no_statistics(norm)
    del norm.running_var
    norm.running_var = nn.Parameter(torch.ones(4))
    assert no_statistics(norm) == "the running statistics of BatchNorm2d are no buffers"


def test_a_layer_that_waits_for_its_first_input_or_has_no_memory_can_not_be_tried():
    assert no_statistics(nn.LazyBatchNorm2d()) is None
    assert no_statistics(Own(4).to("meta")) is None
