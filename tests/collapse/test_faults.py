"""An error in the analysis of a collapse is told, and never reads as "nothing to remove"."""

import logging

import pytest
import torch
from scenarios.wrecked import same
from torch import nn

from reflow_lightning.collapse import collapse, collapse_report, exactness, leftovers, work
from reflow_lightning.collapse.facts import analysis, apart, bounds, channels, step
from reflow_lightning.collapse.faults import STRICT
from reflow_lightning.collapse.operators import activations, affine, batchnorm, moves, pairs, reductions
from reflow_lightning.collapse.passes import constants, merging, removal


class Network(nn.Module):
    """Something for every part of the analysis to do."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.second = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 8)
        self.folded, self.gone, self.third, self.head = (
            nn.BatchNorm1d(8),
            nn.Linear(8, 8),
            nn.Linear(8, 4),
            nn.Linear(4, 2),
        )
        with torch.no_grad():
            self.first.weight[:6], self.first.bias[:6] = 0, 1.0  # constant channels
            self.second.weight[:4] = 0  # constant in one operand of the sum
            self.gone.weight.zero_()

    def forward(self, x):
        x = self.norm(self.first(x).relu())
        x = x.view(x.shape[0], x.shape[1], 1).mean(2)
        x = self.folded(self.second(x)) + x.flatten(1)
        x = x + self.gone(x)
        return self.head(self.third(x)).sigmoid()


def broken(*_, **__):
    raise NameError("a typo of ours")


PLACES = {
    "the bounds of a layer": (affine.Affine, "of", "first"),
    "the bounds of a norm": (batchnorm, "times", "norm"),
    "the bounds of an activation": (activations, "of_activation", "relu"),
    "the bounds of a sum": (pairs, "clean", "add"),
    "the bounds of a view": (step, "of_rising", "flatten"),
    "the bounds of a mean": (reductions.Reduction, "bounds", "mean"),
    "which arguments have bounds": (bounds, "has_bounds", "first"),
    "the channels of a layer": (affine.Affine, "channels", "first"),
    "the channels of a norm": (batchnorm.BatchNorm, "channels", "norm"),
    "the channels of an activation": (activations, "labels_of", "relu"),
    "the channels of a sum": (pairs.Add, "meet", "add"),
    "the channels of a view": (moves.Move, "_moved", "flatten"),
    "the sizes that a view names": (moves, "size_given_by", "view"),
    "the channels of a mean": (reductions, "spread", "mean"),
    "which arguments have channels": (channels, "labels_of", "first"),
    "the channels of a sum taken apart": (apart, "constant_in_one", "add"),
    "the shapes of a graph": (analysis, "_is_alike", "branch"),
    "a norm that is folded": (merging, "affine_of_batchnorm", "folded"),
    "a branch that is constant": (constants, "_constant", "add"),
    "the pieces of an activation": (activations.Activation, "pieces", "relu"),
    "how layers read": (removal, "uniform", "first"),
    "which channels go": (work, "find_removal", "channels"),
    "a layer that shrinks": (affine.Affine, "shrink", "first"),
    "layers that are merged": (merging, "merge", "head"),
    "what is left": (leftovers, "uniform", "first"),
}


@pytest.mark.parametrize("place", PLACES)
def test_an_error_of_our_own_is_logged_and_reported_with_its_layer(place, monkeypatch, caplog):
    owner, name, where = PLACES[place]
    monkeypatch.delenv(STRICT)
    monkeypatch.setattr(owner, name, broken)
    model, x = Network().eval(), torch.randn(5, 4)
    with caplog.at_level(logging.ERROR):
        collapsed = collapse(model, torch.randn(2, 4))
    assert same(model, collapsed, (x,)) < 1e-5
    rows = [row for row in collapse_report(collapsed).left if "NameError: a typo of ours" in row.why]
    assert where in {row.where for row in rows}
    told = [record for record in caplog.records if record.exc_info and record.exc_info[0] is NameError]
    assert {record.args[0] for record in told} == {row.where for row in rows}
    assert len(told) == len(rows)


@pytest.mark.parametrize("place", PLACES)
def test_an_error_of_our_own_is_raised_where_that_is_asked_for(place, monkeypatch):
    owner, name, _ = PLACES[place]
    monkeypatch.setenv(STRICT, "1")
    monkeypatch.setattr(owner, name, broken)
    with pytest.raises(NameError, match="a typo of ours"):
        collapse(Network().eval(), torch.randn(2, 4))


@pytest.mark.parametrize("strict", [False, True])
def test_an_error_in_the_comparison_itself_is_not_taken_for_one_of_the_network(strict, monkeypatch):
    monkeypatch.setenv(STRICT, "1" if strict else "")
    monkeypatch.setattr(exactness, "relative_difference", broken)
    with pytest.raises(NameError, match="a typo of ours"):
        collapse(Network().eval(), torch.randn(2, 4))


def test_nothing_is_reported_of_a_network_whose_own_steps_can_not_do_with_infinite_values(monkeypatch, caplog):
    class Odd(nn.Module):
        def forward(self, x):
            parts = x.relu().chunk(2, 1)
            return torch.cat((parts + parts)[:2], 1).clamp(min=x.mean(1, keepdim=True)) + 1j * x.sum().sum(0)

    monkeypatch.delenv(STRICT)
    collapsed = collapse(Odd(), torch.randn(2, 4))
    assert not [row for row in collapse_report(collapsed).left if row.what == "error"]
    assert not caplog.records
