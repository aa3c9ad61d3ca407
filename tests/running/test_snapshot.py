import pytest
import torch
from scenarios.thinned import bits
from torch import nn

from reflow_lightning.running.snapshot import Snapshot, Snapshots, TrainingFlags, write


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
    modules = [expanded, nn.LazyLinear(2), nn.LazyBatchNorm1d(), nn.Linear(2, 2, device="meta")]
    Snapshot(modules).restore()
    Snapshot.of_buffers(modules).restore()


def test_of_buffers_the_parameters_stay_as_they_are():
    model = network()
    snapshot, before = Snapshot.of_buffers([model]), bits(model)
    scramble(model)
    snapshot.restore()
    after = bits(model)
    buffers = {name for name, _ in model.named_buffers()}
    assert {name for name in before if before[name] == after[name]} == buffers


def test_training_flags_are_put_back_one_by_one():
    class Frozen(nn.BatchNorm1d):
        def train(self, mode=True):
            return super().train(False)

    model = nn.Sequential(Frozen(2), nn.Dropout().eval(), nn.ReLU())
    model[0].training = True
    flags = TrainingFlags(model.modules())
    model.eval()
    flags.restore()
    assert [module.training for module in model.modules()] == [True, True, False, True]


def test_values_are_written_by_name():
    model = network().double()
    write(model, {"0.bias": torch.ones(4), "1.num_batches_tracked": torch.tensor(3)})
    assert model[0].bias.tolist() == [1.0] * 4
    assert model[1].num_batches_tracked == 3
    with pytest.raises(AttributeError, match="missing"):
        write(model, {"0.missing": torch.ones(4)})


def test_of_several_the_last_is_put_back_first():
    model = network()
    before, first = bits(model), Snapshot([model])
    scramble(model)
    Snapshots([first, None, Snapshot([model])]).restore()
    assert bits(model) == before
