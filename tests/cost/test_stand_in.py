import copy

import pytest
import torch
from torch import nn

from reflow_lightning.cost.stand_in import StandIn

VALUES = torch.arange(6.0).view(2, 3)


@pytest.fixture
def asked():
    return []


@pytest.fixture
def stand_in(asked):
    return StandIn.of(VALUES[0, 0], VALUES.shape, lambda: asked.append("values") or VALUES)


def test_what_is_known_of_it_costs_nothing(stand_in, asked):
    assert stand_in.shape == (2, 3)
    assert (stand_in.dtype, stand_in.device, stand_in.ndim) == (torch.float32, torch.device("cpu"), 2)
    assert (stand_in.requires_grad, stand_in.is_leaf, stand_in.layout) == (False, True, torch.strided)
    assert asked == []


@pytest.mark.parametrize(
    "use",
    [
        lambda w: w + 0,
        lambda w: w[1],
        lambda w: w.t(),
        lambda w: w.data,
        lambda w: w.sum(),
        lambda w: w.numpy(),
        lambda w: w.tolist(),
        lambda w: w.stride(),
        lambda w: torch.cat([w, w]),
        lambda w: nn.functional.linear(torch.ones(1, 3), w),
        lambda w: torch.ones(4, 3) @ w.t(),
        lambda w: torch.stack([w, VALUES]).mean(),
        repr,
        copy.deepcopy,
        len,
    ],
)
def test_whoever_asks_for_values_gets_the_right_ones(use, stand_in, asked):
    assert str(use(stand_in)) == str(use(VALUES))
    assert asked


def test_fused_kernels_that_read_weights_leave_it_alone(stand_in):
    assert torch.overrides.has_torch_function((torch.ones(1), stand_in))
