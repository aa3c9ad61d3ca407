import copy

import numpy as np
import pytest
import torch
from scenarios.wrecked import build, inputs_for, same
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune
from zoo import networks
from zoo.odd import Branching, Forward

from reflow_lightning.collapse import NotTraceableError
from reflow_lightning.collapse.graph.tracing import evaluated, trace

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


class Written(nn.Module):
    """Writes into a buffer of its own."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.count.add_(1)
        return x * self.count


class View(nn.Module):
    """Writes into a view of what it goes on with."""

    def forward(self, x):
        x = x + 1
        x.view(-1).relu_()
        return x.sum(1)


class Options(nn.Module):
    def forward(self, x, mask=None, double=False, times=3):
        return (x * 2 if double else x) * times


def seen_by_both(first):
    """What the first function makes of a tensor must be seen by the second branch, too."""

    def run(layers, x):
        x = layers.a(x)
        return layers.b(first(layers, x)) + x

    return Forward(run, a=nn.Linear(4, 4), b=nn.Linear(4, 4), relu=nn.ReLU(inplace=True)).eval()


@pytest.mark.parametrize("name", networks("collapse"))
def test_the_graph_does_what_the_model_does(name):
    """In float64, where no other place of the weights in memory rounds otherwise than the bound allows."""
    model = build(name).double()
    inputs = tuple(x.double() if x.is_floating_point() else x for x in inputs_for(name))
    assert same(model, trace(model, inputs), inputs) < 1e-12


@pytest.mark.parametrize(
    "write",
    [
        lambda layers, x: layers.relu(x),
        lambda layers, x: x.relu_(),
        lambda layers, x: functional.relu(x, inplace=True),
        lambda layers, x: functional.relu(x, True),
        lambda layers, x: functional.leaky_relu_(x, 0.1),
        lambda layers, x: torch.relu_(x).mul_(2),
        lambda layers, x: x.__iadd__(1),
    ],
)
def test_what_a_step_writes_is_seen_by_all_who_read_it_later(write):
    model = seen_by_both(write)
    assert same(model, trace(model), (X,)) == 0


def test_no_step_of_the_graph_writes_to_its_input():
    traced = trace(nn.Sequential(nn.ReLU(inplace=True)))
    given = X.clone()
    traced(given)
    assert torch.equal(given, X)


def test_writing_through_a_view_is_left_in_a_step_of_its_own_or_refused():
    inner = nn.Sequential(nn.Linear(4, 4), View())
    assert same(inner.eval(), trace(inner), (X,)) == 0
    with pytest.raises(NotTraceableError, match="writes into a buffer or a view"):
        trace(View())


def test_what_writes_into_its_buffers_is_left_in_a_step_of_its_own_or_refused():
    inner = nn.Sequential(nn.Linear(4, 4), Written()).eval()
    traced = trace(inner)
    assert inner[1].count == traced.get_submodule("1").count == 0
    assert same(inner, traced, (X,)) == 0
    with pytest.raises(NotTraceableError, match="writes into a buffer"):
        trace(Written())


def test_a_part_that_branches_on_values_becomes_one_step():
    traced = trace(nn.Sequential(nn.Linear(4, 4), Branching(), nn.ReLU()))
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == ["0", "1", "2"]


def test_a_model_that_branches_on_values_itself_is_refused():
    with pytest.raises(NotTraceableError, match=r"Branching can't be traced.*module of its own"):
        trace(Branching())


def test_arguments_that_are_not_given_keep_their_defaults():
    traced = trace(Options())
    assert torch.equal(traced(X), X * 3)
    with pytest.raises(TypeError, match="takes 2 positional arguments but 4 were given"):
        traced(X, None, True)


def test_so_do_collections_and_those_given_by_name_alone():
    class Many(nn.Module):
        def forward(self, x, mask_1, mask=None, sizes=(2, -1), *rest, twice=True, **others):
            x = x.reshape(sizes) + mask_1
            return 2 * x if twice and mask is None else x

    traced = trace(Many(), (X, X))
    assert torch.equal(traced(torch.ones(3, 4), torch.ones(2, 6)), torch.full((2, 6), 4.0))


def test_the_model_is_not_touched():
    model = build("flattened").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [(m.training, getattr(m, "inplace", None)) for m in model.modules()]
    trace(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert flags == [(m.training, getattr(m, "inplace", None)) for m in model.modules()]
    assert all(p.requires_grad for p in model.parameters())


def test_masks_and_parametrizations_are_carried_out_in_the_copy_only():
    model = nn.Sequential(nn.Linear(4, 4), parametrizations.weight_norm(nn.Linear(4, 3)))
    prune.l1_unstructured(model[0], "weight", 0.5)
    expected = model(X)
    plain = evaluated(model)
    assert [type(layer) for layer in plain] == [nn.Linear, nn.Linear]
    assert sorted(plain.state_dict()) == ["0.bias", "0.weight", "1.bias", "1.weight"]
    torch.testing.assert_close(plain(X), expected)
    assert torch.equal(model(X), expected)
    assert prune.is_pruned(model)
    assert nn.utils.parametrize.is_parametrized(model[1])


class Scaled(nn.Module):
    """Divides by a number of NumPy, as an annealed temperature is."""

    def __init__(self):
        super().__init__()
        self.temperature = np.float64(0.5)

    def forward(self, x):
        return x / self.temperature


def test_a_number_of_numpy_is_one_of_python_in_the_graph():
    assert torch.equal(trace(Scaled())(X), X / 0.5)


class Borrowed(nn.Module):
    """Multiplies by the transpose of a weight that it does not hold as a parameter."""

    def __init__(self):
        super().__init__()
        self.words, self.layer = [nn.Embedding(5, 4).weight], nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x) @ self.words[0].t()


def test_a_view_of_a_weight_that_no_module_holds_is_a_constant_of_the_graph():
    model = Borrowed().eval()
    graph = trace(model)
    torch.testing.assert_close(copy.deepcopy(graph)(X), model(X))  # collapse copies it before each change
