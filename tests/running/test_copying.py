"""The dense copy is a network of its own, and takes the memory of one set of weights."""

import numpy as np
import pytest
import torch
from torch import nn

from reflow_lightning.running.copying import dense_copy


class Holds(torch.utils.data.Dataset):
    def __init__(self, values):
        self.values = values


class Wrapper:
    def __init__(self, value):
        self.inner = {"deep": [value]}


@pytest.mark.parametrize(
    "value",
    [Holds(torch.zeros(2)), torch.zeros(2**23), np.zeros(2**22), list(range(20_000)), {i: i for i in range(20_000)}],
    ids=["a data set", "a tensor", "an array", "a list", "a dict"],
)
@pytest.mark.parametrize("hold", [lambda v: v, lambda v: [v], Wrapper], ids=["itself", "in a list", "in an object"])
def test_data_are_shared_however_deep(value, hold):
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].held = hold(value)
    copied = dense_copy(model)[0].held
    found = copied.inner["deep"][0] if isinstance(copied, Wrapper) else copied
    assert (found[0] if hold(0) == [0] else found) is value


def test_modules_that_a_plain_list_holds_are_copied():
    model = nn.Linear(2, 2)
    model.others = [nn.Linear(1, 1) for _ in range(10_001)]
    assert dense_copy(model).others[0] is not model.others[0]


def test_large_parameters_and_buffers_are_copied():
    model = nn.Linear(4096, 2048, bias=False)
    model.register_buffer("table", torch.zeros(2**23))
    model.same = [model.table]
    copied = dense_copy(model)
    assert copied.weight is not model.weight
    assert copied.table is not model.table
    assert copied.same[0] is copied.table


class Closures(nn.Module):
    """Holds functions that run its modules, as some public transformers do."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.scale = nn.Parameter(torch.ones(3))
        inner = self.inner
        self.run = lambda x: inner(x) * self.scale
        self.steps = [lambda x, layer=inner: layer(x)]
        self.by_name = {"run": lambda x, *, layer=inner: layer(x)}
        self.plain = torch.tanh

    def forward(self, x):
        return self.plain(self.by_name["run"](self.steps[0](self.run(x))))


def test_functions_that_hold_modules_run_those_of_the_copy():
    torch.manual_seed(0)
    model, x = Closures(), torch.randn(2, 3)
    copied, before = dense_copy(model), model(x)
    assert torch.equal(copied(x), before)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(copied(x), before)
    assert copied.plain is model.plain
    with torch.no_grad():
        copied.inner.weight.zero_()
        copied.inner.bias.fill_(0.5)
    assert torch.equal(copied(x), torch.tanh(torch.full((2, 3), 0.5)))
    assert not model(x).any()


def test_a_container_that_holds_itself_is_copied():
    model = nn.Linear(2, 2)
    model.loop = []
    model.loop.append(model.loop)
    model.entries = {}
    model.entries["self"] = model.entries
    copied = dense_copy(model)
    assert copied.loop is not model.loop
    assert copied.loop[0] is copied.loop
