import copy
import json

import pytest
import torch
from torch import nn

from reflow_lightning.collapse.collapsing import collapse
from reflow_lightning.cost.comparison import compare, measure_size
from reflow_lightning.cost.cost import measure_cost
from reflow_lightning.cost.memory import measure_memory


def network(width):
    layers = nn.Conv2d(1, width, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 5, 3)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(5 * 16, 3)).eval()


def without_dead_channels(model, alive):
    """The same network with the first channels of its first convolution alone."""
    small = network(alive)
    state = model.state_dict()
    cut = {"0.weight": state["0.weight"][:alive], "3.weight": state["3.weight"][:, :alive]}
    cut |= {name: value[:alive] for name, value in state.items() if name.startswith("1.") and value.ndim}
    small.load_state_dict({**state, **cut})
    return small


@pytest.fixture
def pair():
    torch.manual_seed(0)
    model = network(16)
    with torch.no_grad():
        model[3].weight[:, 4:] = 0
    return model, without_dead_channels(model, 4)


IMAGES = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_both_networks_are_measured_on_the_same_input(pair):
    found = compare(*pair, IMAGES, rounds=2)
    assert (found.before.layers, found.after.layers) == (3, 3)
    assert (found.before.channels, found.after.channels) == (16 + 5 + 3, 4 + 5 + 3)
    assert found.after.parameters == sum(p.numel() for p in pair[1].parameters())
    for size, model in zip((found.before, found.after), pair, strict=True):
        memory = measure_memory(model, IMAGES)
        assert size.multiply_adds == measure_cost(model, IMAGES[:1]).multiply_adds
        assert (size.peak_bytes, size.file_bytes) == (memory.peak_bytes, memory.file_bytes)
    assert found.after.peak_bytes < found.before.peak_bytes
    assert found.latency.batch_size == 32
    assert found.largest_difference < 1e-6


def test_a_network_that_does_something_else_is_seen(pair):
    before, after = pair
    with torch.no_grad():
        after[-1].bias += 0.5
        expected = 0.5 / float(before(IMAGES).abs().max())
    assert compare(before, after, IMAGES, rounds=1).largest_difference == pytest.approx(expected, rel=1e-3)


def test_a_layer_that_does_not_run_is_none():
    class Skipping(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(4, 6), nn.Linear(4, 100)

        def forward(self, x):
            return self.used(x)

    size = measure_size(Skipping(), torch.zeros(2, 4))
    assert (size.layers, size.channels, size.multiply_adds, size.parameters) == (1, 6, 24, 530)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 6), nn.Linear(5, 6), nn.Linear(6, 2)

    def forward(self, x, y, scale):
        return self.last(torch.relu(self.first(x) + self.second(y))) * scale


def test_a_network_of_several_inputs_takes_them_as_a_tuple():
    model, inputs = TwoInputs(), (torch.randn(8, 4), torch.randn(8, 5), 0.5)
    with torch.no_grad():
        for layer in (model.first, model.second):
            layer.weight[:3] = 0
    found = compare(model, collapse(model, inputs), inputs, rounds=1)
    assert (found.before.multiply_adds, found.after.multiply_adds) == (6 * (4 + 5 + 2), 3 * (4 + 5 + 2))
    assert (found.before.channels, found.after.channels) == (6 + 6 + 2, 3 + 3 + 2)
    assert found.before.peak_bytes == measure_memory(model, inputs).peak_bytes
    assert found.latency.batch_size == 8
    assert found.largest_difference < 1e-5


def test_multiply_adds_are_those_of_one_sample_with_what_all_samples_share():
    class Masked(nn.Module):
        def forward(self, x, mask):
            return mask @ x

    assert measure_size(Masked(), (torch.zeros(8, 3, 5), torch.zeros(3, 3))).multiply_adds == 3 * 3 * 5


def test_neither_network_is_changed(pair):
    pair[0].train()
    pair[0][1].eval()
    states = copy.deepcopy([model.state_dict() for model in pair])
    flags = [module.training for model in pair for module in model.modules()]
    compare(*pair, IMAGES, rounds=1)
    for model, state in zip(pair, states, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [module.training for model in pair for module in model.modules()] == flags


def test_outputs_of_other_shapes_are_refused(pair):
    with pytest.raises(ValueError, match="can't be compared"):
        compare(pair[0], pair[0][:-1], IMAGES, rounds=1)


def test_it_is_a_table_and_plain_types(pair):
    found = compare(*pair, IMAGES, rounds=2)
    lines = {line.split("  ")[0]: line.split() for line in str(found).splitlines()}
    assert lines["channels"] == ["channels", "24", "12", "50.0", "%"]
    assert lines["layers"][-2:] == ["0.0", "%"]
    assert "times as fast" in str(found)
    read = json.loads(json.dumps(found.to_dict()))
    assert read == found.to_dict()
    assert set(read) == {"before", "after", "latency", "largest_difference"}
