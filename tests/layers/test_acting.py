"""Zeros of a weight that a layer changes before it multiplies are no zeros: such a weight stays dense and is named."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from reflow_lightning import prune
from reflow_lightning.layers import layer_of
from reflow_lightning.layers.acting import zeros_act
from reflow_lightning.layers.linear import LinearLayer
from reflow_lightning.pruning import select


class Standardised(nn.Conv2d):
    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return functional.conv2d(x, weight / weight.std(), self.bias, self.stride, self.padding, groups=self.groups)


class Binary(nn.Linear):
    def forward(self, x):
        return x @ torch.where(self.weight > 0, 1.0, -1.0).T


class Positive(nn.Linear):
    def forward(self, x):
        return functional.linear(x, functional.softplus(self.weight), self.bias)


class Causal(nn.Conv1d):
    def forward(self, x):
        return super().forward(functional.pad(x, (self.kernel_size[0] - 1, 0)))


class Scaled(nn.Linear):
    def forward(self, x):
        return functional.linear(functional.layer_norm(x, x.shape[-1:]), 0.5 * self.weight, self.bias)


class Transposed(nn.Linear):
    def forward(self, x):
        return torch.addmm(self.bias, x, self.weight.T)


class Asks(nn.Linear):
    def forward(self, x, more):
        return super().forward(x + more)


class Drifts(nn.Linear):
    """Keeps a count, draws at random and has a lock."""

    def forward(self, x):
        self.count = getattr(self, "count", 0) + 1
        return super().forward(x + torch.randn_like(x))


CHANGED = [Standardised(3, 8, 3), Standardised(8, 8, 3, groups=2), Binary(4, 4), Positive(3, 2)]
AS_STORED = [
    nn.Linear(4, 4),
    nn.Conv2d(8, 8, 3, groups=4),
    nn.ConvTranspose2d(4, 2, 3),
    Causal(3, 3, 3, dilation=2),
    Scaled(2, 3),
    Scaled(2, 2),
    Transposed(3, 2),
    Asks(3, 2),  # can't be tried
    Drifts(3, 2),
]


def named(module):
    return f"{type(module).__name__}{tuple(module.weight.shape)}"


@pytest.mark.parametrize("module", CHANGED, ids=named)
def test_a_weight_that_is_changed_first_is_seen(module):
    assert not zeros_act(module)


@pytest.mark.parametrize("module", AS_STORED, ids=named)
def test_a_weight_that_multiplies_as_it_is_stored_or_can_not_be_tried_is_not(module):
    assert zeros_act(module)


def test_trying_leaves_no_trace():
    module, state = Drifts(3, 2), torch.get_rng_state()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    zeros_act(module)
    assert not hasattr(module, "count")
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_such_a_weight_stays_dense_which_a_warning_says_once_for_all_of_its_type():
    model = nn.Sequential(Standardised(3, 8, 3), Standardised(8, 8, 3), nn.Flatten(), nn.Linear(8, 8))
    with pytest.warns(UserWarning, match="'0.weight', '1.weight': of Standardised, whose forward pass changes it"):
        masks = prune(model, 0.5)
    assert list(masks) == ["3.weight"]
    assert bool(model[0].weight.all())
    assert masks.coverage(model).left == {"Standardised": 2}


def test_its_name_selects_it_all_the_same():
    model = nn.Sequential(Standardised(3, 8, 3), nn.Flatten(), nn.Linear(8, 8))
    assert list(select(model, include=["*", "0.weight"])) == ["0.weight", "2.weight"]


def test_so_does_registering_its_type():
    class Mine(Positive):
        pass

    with pytest.raises(ValueError, match="of Mine, whose forward pass changes it"):
        select(nn.Sequential(Mine(3, 2)))
    layer_of.register(Mine, LinearLayer)
    assert list(select(nn.Sequential(Mine(3, 2)))) == ["0.weight"]


def test_complex_and_whole_number_matrices_of_unknown_layers_are_named():
    class Spectral(nn.Module):
        def __init__(self, dtype):
            super().__init__()
            self.factors = nn.Parameter(torch.ones(4, 4).to(dtype), requires_grad=False)

    model = nn.Sequential(Spectral(torch.complex64), Spectral(torch.uint8), nn.Linear(4, 4))
    with pytest.warns(UserWarning, match=r"'0.factors': torch.complex64, and complex .*'1.factors': torch.uint8, not"):
        masks = prune(model, 0.5)
    assert masks.coverage(model).left == {"Spectral": 2}
