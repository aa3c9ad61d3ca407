"""A forward pass leaves no trace: buffers, attributes and containers are what they were, and the same objects."""

import copy

import pytest
import torch
from torch import nn

from reflow_lightning.running.isolation import only_training
from reflow_lightning.running.traces import Traces, parameters_kept
from reflow_lightning.running.walks import RunsThroughError, Walk


class Keeper(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("low", torch.zeros(2))
        self.register_buffer("empty", None)
        self.seen, self.named, self.calls = [1], {"a": 1}, 0
        self.state = torch.zeros(2)


def appends(m):
    m.seen.append(2)


CHANGES = {
    "a buffer in place": lambda m: m.low.add_(1),
    "a buffer through data": lambda m: m.low.data.add_(1),
    "a buffer resized": lambda m: m.low.resize_(3).fill_(1),
    "a buffer replaced": lambda m: setattr(m, "low", torch.ones(2)),
    "a buffer given": lambda m: setattr(m, "empty", torch.ones(2)),
    "a buffer registered": lambda m: m.register_buffer("new", torch.ones(2)),
    "a number": lambda m: setattr(m, "calls", 1),
    "an attribute that is new": lambda m: setattr(m, "cache", 1),
    "an attribute deleted": lambda m: delattr(m, "calls"),
    "a list": appends,
    "a dict": lambda m: m.named.update(b=2),
    "a tensor in place": lambda m: m.state.add_(1),
    "a tensor replaced": lambda m: setattr(m, "state", m.state + 1),
}


def held(module):
    buffers = {n: None if b is None else b.tolist() for n, b in module._buffers.items()}
    return (
        buffers,
        copy.deepcopy(module.seen),
        dict(module.named),
        getattr(module, "calls", "gone"),
        module.state.tolist(),
    )


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_undone(change):
    model = nn.Sequential(Keeper())
    before, objects = held(model[0]), [model[0].low, model[0].seen, model[0].named, model[0].state]
    with torch.no_grad(), only_training(model, ()):
        CHANGES[change](model[0])
    assert held(model[0]) == before
    assert "cache" not in vars(model[0])
    assert all(
        a is b for a, b in zip(objects, [model[0].low, model[0].seen, model[0].named, model[0].state], strict=True)
    )


def test_what_is_written_by_the_block_stays():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    with only_training(model, (), written=[model[0]]):
        for norm in model:
            norm.running_mean.fill_(5.0)
    assert (model[0].running_mean.tolist(), model[1].running_mean.tolist()) == ([5.0, 5.0], [0.0, 0.0])


def test_a_buffer_that_is_not_changed_is_not_written():
    model = nn.BatchNorm1d(2)
    before = model.running_mean._version
    with only_training(model, ()):
        pass
    assert model.running_mean._version == before


def test_a_layer_that_gets_its_parameters_in_the_block_keeps_them():
    model = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d())
    with only_training(model, ()):
        model(torch.randn(4, 2))
    assert model[0].weight.shape == (3, 2)
    assert model[1].running_mean.shape == (3,)


def test_a_large_plain_tensor_is_taken_for_data():
    model = nn.Module()
    model.data = torch.zeros(2**22 + 1)
    traces = Traces(model)
    model.data.add_(1)
    traces.restore()
    assert model.data[0] == 1


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
def test_scripted_modules_can_be_run_too():
    model = torch.jit.script(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with only_training(model, model.modules()):
        model(torch.randn(4, 2))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


class Follows(nn.Module):
    """Moves its target in each forward pass, which is larger than what counts as a small parameter."""

    def __init__(self):
        super().__init__()
        self.online, self.target = nn.Linear(80, 80), nn.Linear(80, 80).requires_grad_(False)

    def forward(self, x):
        for mine, other in zip(self.target.parameters(), self.online.parameters(), strict=True):
            mine.data = 0.9 * mine.data + 0.1 * other.data
        return self.online(x)


def test_a_target_that_is_moved_in_the_forward_pass_stays_where_it_was():
    model = Follows()
    before = copy.deepcopy(model.state_dict())
    with only_training(model, ()):
        model(torch.ones(1, 80))
        assert not torch.equal(model.target.weight, before["target.weight"])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def frozen_but_for_the_last_block():
    return nn.Sequential(nn.Linear(80, 80).requires_grad_(False), nn.Linear(80, 80))


@pytest.mark.parametrize(
    "build", [lambda: nn.Linear(80, 80), lambda: nn.Linear(80, 80).requires_grad_(False), frozen_but_for_the_last_block]
)
def test_no_copy_is_made_of_weights_that_are_trained_or_frozen_as_in_fine_tuning(build):
    model = build()
    weight = next(model.parameters())
    expected = weight.detach() + 1
    before = Traces(model)
    with torch.no_grad():
        weight.add_(1)
    before.restore()
    assert torch.equal(weight, expected)


@pytest.mark.parametrize(
    "write",
    [
        lambda p: p.add_(1),
        lambda p: p.data.mul_(2),
        lambda p: setattr(p, "data", torch.zeros_like(p)),
        lambda p: p.fill_(torch.nan),
    ],
)
def test_parameters_that_a_block_writes_are_put_back(write):
    model = nn.Linear(200, 200)  # more than are taken for a state
    before = model.weight.detach().clone()
    with parameters_kept(model), torch.no_grad():
        write(model.weight)
    assert torch.equal(model.weight, before)


def test_parameters_that_a_block_leaves_are_not_written():
    model = nn.Linear(200, 200)
    counted = model.weight._version
    with parameters_kept(model):
        model(torch.ones(1, 200))
    assert model.weight._version == counted


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m, "calls", 1),
        lambda m: m.memory.append(1),
        lambda m: m.memory[0].update(b=1),
        lambda m: m.register_module("late", nn.ReLU()),
        lambda m: m.get_buffer("count").add_(1),
    ],
)
def test_a_change_can_be_told_before_it_is_put_back(change):
    model = nn.Linear(2, 2)
    model.calls, model.memory = 0, [{"a": 1}]
    model.register_buffer("count", torch.zeros(1))
    before = Traces(model)
    model(torch.ones(1, 2))
    assert not before.changed()
    change(model)
    assert before.changed()
    before.restore()
    assert (model.calls, model.memory) == (0, [{"a": 1}])
    assert "late" not in dict(model.named_children())


def test_a_block_that_puts_parameters_back_is_refused_where_other_passes_are_under_way():
    def run():
        with parameters_kept(nn.Linear(1, 1)):
            pass

    with pytest.raises(RunsThroughError):
        Walk(run).go()
