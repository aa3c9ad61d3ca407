"""What dropout adds to the statistics of a layer in train mode is measured on the same samples in both modes."""

import copy

import pytest
import torch
from torch import nn

from reflow_lightning.calibration.drift.observing import observe
from reflow_lightning.calibration.drift.trials import Trials, shifts_in_training
from reflow_lightning.running.forward import default_forward


def trials(model):
    batches = [torch.randn(4000, 2, generator=torch.Generator().manual_seed(seed)) + 1 for seed in range(2)]
    return Trials(model, batches, default_forward, observe(model, batches, default_forward))


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_adds_variance_and_leaves_the_mean(p):
    torch.manual_seed(0)
    shift = shifts_in_training(trials(nn.Sequential(nn.Dropout(p), nn.BatchNorm1d(2))))["1"]
    second_moment = 2.0  # of the input; a kept value is 1 / (1 - p) times as large, and its square is kept so often
    torch.testing.assert_close(shift.mean, torch.zeros(2).double(), atol=0.06, rtol=0)
    torch.testing.assert_close(shift.square, torch.full((2,), second_moment * p / (1 - p)).double(), atol=0.2, rtol=0)


def test_where_nothing_is_random_there_is_no_shift_and_no_trace():
    model = nn.Sequential(
        nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 3), nn.BatchNorm1d(3)
    ).eval()
    before = copy.deepcopy(model.state_dict())
    assert list(shifts_in_training(trials(model))) == ["4"]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module.training for module in model.modules())


def test_a_model_that_wants_targets_in_train_mode_is_taken_as_it_is_in_eval_mode():
    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(2)

        def forward(self, x):
            if self.training:
                raise ValueError("targets should not be None")
            return self.norm(x)

    assert shifts_in_training(trials(Detector())) == {}
