import torch
from scenarios.thinned import bits
from torch import nn

from reflow_lightning.running.snapshot import Snapshot, Snapshots


def network():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.MultiheadAttention(4, 2))


@torch.no_grad()
def scramble(model):
    for value in (*model.parameters(), *model.buffers()):
        value.copy_(torch.full_like(value, 7))


def test_every_value_is_put_back_to_the_last_bit():
    model = network()
    model[0].weight.data[0] = torch.tensor([float("nan"), -0.0, float("inf")])
    before, snapshot = bits(model), Snapshot([model[0], model[1], model[2]])
    scramble(model)
    assert bits(model) != before
    snapshot.restore()
    assert bits(model) == before


def test_only_the_given_modules_are_put_back():
    model = network()
    snapshot, before = Snapshot([model[0]]), bits(model)
    scramble(model)
    snapshot.restore()
    after = bits(model)
    assert {name for name in before if before[name] == after[name]} == {"0.weight", "0.bias"}


def test_the_parameters_stay_the_same_objects_with_their_gradients():
    model = network()
    model[0].weight.grad = torch.ones(4, 3)
    weight, snapshot = model[0].weight, Snapshot([model])
    scramble(model)
    snapshot.restore()
    assert model[0].weight is weight
    assert weight.requires_grad
    assert bool(weight.grad.all())


def test_a_model_that_was_moved_or_given_new_parameters_is_restored_too():
    model = network()
    before, snapshot = bits(model), Snapshot([model])
    model.double()
    model[0].weight = nn.Parameter(torch.zeros(4, 3, dtype=torch.float64))
    scramble(model)
    snapshot.restore()
    assert model[0].weight.dtype == torch.float64
    assert bits(model) == before


def test_what_cannot_be_written_is_passed_over():
    expanded = nn.Module()
    expanded.register_buffer("ones", torch.ones(1).expand(3))
    Snapshot([expanded, nn.LazyLinear(2), nn.Linear(2, 2, device="meta")]).restore()


def test_of_several_the_last_is_put_back_first():
    model = network()
    before, first = bits(model), Snapshot([model])
    scramble(model)
    Snapshots([first, None, Snapshot([model])]).restore()
    assert bits(model) == before
