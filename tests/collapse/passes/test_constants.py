import pytest
import torch
from scenarios.wrecked import same
from torch import nn
from zoo.odd import Forward

from reflow_lightning.collapse.facts.analysis import Analysis
from reflow_lightning.collapse.graph.tracing import trace
from reflow_lightning.collapse.passes.constants import drop_constant_branches

IMAGES = torch.randn(2, 3, 5, 5)


def block(run=lambda m, x: m.stem(x) + m.b(m.a(x).relu()), padding=1):
    torch.manual_seed(0)
    layers = {"stem": nn.Conv2d(3, 3, 1), "a": nn.Conv2d(3, 4, 3, padding=1), "b": nn.Conv2d(4, 3, 3, padding=padding)}
    return Forward(run, **layers)


def dropped(model, given=IMAGES):
    """What was dropped, and the network without it, which does the same."""
    analysis = Analysis(trace(model), [(given,)])
    rows = drop_constant_branches(analysis.steps, analysis.bounds, analysis.values)
    assert same(model, analysis.traced, (torch.cat([given, given]),)) < 1e-6
    return rows, analysis.traced


@torch.no_grad()
def kill(layer, bias):
    layer.weight.zero_()
    layer.bias.copy_(torch.as_tensor(bias))


def test_a_branch_of_zeros_goes_with_all_its_layers():
    model = block()
    kill(model.b, 0.0)
    rows, after = dropped(model)
    assert [(row.what, row.where) for row in rows] == [("branch", "a, b")]
    assert sorted(after.state_dict()) == ["stem.bias", "stem.weight"]


def test_what_a_constant_branch_adds_is_kept_as_one_number_a_channel():
    model = block()
    kill(model.b, torch.tensor([2.5, 0.0, -1.0]))
    _, after = dropped(model)
    assert sorted(after.state_dict()) == ["constant_add", "stem.bias", "stem.weight"]
    assert after.constant_add.flatten().tolist() == [2.5, 0.0, -1.0]


def test_a_branch_that_differs_at_the_border_stays():
    model = block()
    kill(model.a, 1.0)
    assert dropped(model)[0] == []


def test_layers_that_others_need_stay():
    model = block(lambda m, x: (m.stem(x) + m.b(a := m.a(x))) * a.mean())
    kill(model.b, 0.0)
    rows, after = dropped(model)
    assert rows[0].where == "b"
    assert "a.weight" in after.state_dict()


@pytest.mark.parametrize(
    "run",
    [
        lambda m, x: m.stem(x).mean((2, 3), keepdim=True) + m.b(m.a(x)),  # it gives the sum its shape
        lambda m, x: m.table + m.b(m.a(x)),  # it gives the sum its number of samples
        lambda m, x: torch.add(m.stem(x), m.b(m.a(x)), alpha=2),
        lambda m, x: m.stem(x) - m.b(m.a(x)),
    ],
)
def test_a_branch_stays_if_the_sum_needs_it(run):
    model = block(run)
    model.table = nn.Parameter(torch.randn(1, 3, 5, 5))
    kill(model.b, 1.0)
    assert dropped(model)[0] == []


def test_several_branches_go_one_after_the_other():
    model = block(lambda m, x: m.b(m.a(x)) + (m.stem(x) + m.b2(x)))
    model.b2 = nn.Conv2d(3, 3, 1)
    kill(model.b, 1.0)
    kill(model.b2, 2.0)
    rows, after = dropped(model)
    again = drop_constant_branches(*(lambda a: (a.steps, a.bounds, a.values))(Analysis(after, [(IMAGES,)])))
    assert len(rows) + len(again) == 2
    assert same(model, after, (IMAGES,)) < 1e-6


def test_a_network_without_parameters_has_nothing_to_drop():
    assert dropped(Forward(lambda _, x: x + x))[0] == []
