"""Channels that are picked by their numbers."""

import pytest
import torch
from torch import nn

from reflow_lightning.collapse import collapse, collapse_report

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))


class Picking(nn.Module):
    """A layer whose first ten outputs are constants, of which another reads some."""

    def __init__(self, index, dim=-1, reads=None):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(6, 32), nn.Linear(len(index) if reads is None else reads, 7)
        self.register_buffer("index", torch.tensor(index))
        self.dim = dim
        with torch.no_grad():
            self.first.weight[:10] = 0

    def forward(self, x):
        return self.second(torch.index_select(self.first(x).relu(), self.dim, self.index))


def close(found, expected):
    return float((found - expected).detach().abs().max()) <= 1e-5 * float(expected.detach().abs().max())


@pytest.mark.parametrize(
    ("index", "outputs", "inputs"),
    [([3, 3, 12, 20, 31], 3, 3), ([15, 4, 30, 4], 2, 2), ([12, 13, 14, 15], 4, 4), ([30, 11, 30], 2, 3)],
    ids=str,
)
def test_what_is_not_picked_goes_and_so_does_what_is_constant(index, outputs, inputs):
    model = Picking(index).eval()
    collapsed = collapse(model, X)
    assert collapsed.get_submodule("first").out_features == outputs
    assert collapsed.get_submodule("second").in_features == inputs
    assert close(collapsed(3 * X), model(3 * X))


@pytest.mark.parametrize("index", [[15], [15, 15], [4], [4, 4]], ids=str)
def test_one_channel_alone_is_found_again_among_fewer(index):
    class Also(Picking):
        def forward(self, x):
            y = self.first(x).relu()
            return self.second(torch.index_select(y, 1, self.index)) + self.third(y)

    model = Also(index).eval()
    model.third = nn.Linear(32, 7).eval()
    collapsed = collapse(model, X)
    assert collapsed.get_submodule("first").out_features < 32
    assert not [row for row in collapse_report(collapsed).left if "does not fit" in row.why]
    assert close(collapsed(3 * X), model(3 * X))


def test_of_another_dimension_nothing_goes():
    model, x = Picking([2, 0], dim=1, reads=32).eval(), torch.randn(4, 5, 6)
    collapsed = collapse(model, x)
    assert close(collapsed(x), model(x))


def test_numbers_that_are_given_may_be_others_the_next_time():
    class Given(Picking):
        def forward(self, x, index):
            return self.second(torch.index_select(self.first(x).relu(), -1, index))

    model = Given([0, 1, 2]).eval()
    collapsed = collapse(model, (X, torch.tensor([1, 15, 20])))
    assert collapsed.get_submodule("first").out_features == 32
    index = torch.tensor([31, 2, 11])
    assert close(collapsed(X, index), model(X, index))


def test_numbers_that_two_steps_share_stay():
    class Shared(Picking):
        def forward(self, x):
            y = self.first(x)
            return self.second(torch.index_select(y.relu(), -1, self.index) + torch.index_select(y, -1, self.index))

    model = Shared([2, 0, 14]).eval()
    collapsed = collapse(model, X)
    assert close(collapsed(X), model(X))
    assert not [row for row in collapse_report(collapsed).left if row.what == "error"]
