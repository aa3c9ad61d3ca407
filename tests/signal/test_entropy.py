import copy
import json
import math

import pytest
import torch
from helpers import everything, images
from torch import nn
from torch.nn import functional
from zoo.convolutional import small_net

from reflow_lightning import measure_signal
from reflow_lightning.signal import LayerEntropy, measure_entropy
from reflow_lightning.signal.neurons import NeuronCounts

BATCHES = list(images(64).split(16))


def rows(model, *batches, **how):
    return measure_entropy(model, batches or BATCHES, max_batches=len(batches) or 4, **how).rows


def biased(*biases, rectifier=None):
    """A neuron a bias, each of which sees values around it."""
    layer = nn.Linear(2, len(biases))
    nn.init.constant_(layer.weight, 1.0)
    with torch.no_grad():
        layer.bias.copy_(torch.tensor(biases))
    return nn.Sequential(layer, rectifier or nn.ReLU(), nn.Linear(len(biases), 1))


def test_rows_are_those_of_all_data_in_eval_mode():
    model = small_net().train()
    nn.init.constant_(model[1].bias.detach()[:2], 100.0)
    first, second = rows(model)
    assert (first.layer, first.kind, first.neurons, second.layer) == ("0", "relu", 8, "4")
    with torch.no_grad():
        values = model.eval()[:2](torch.cat(BATCHES)).double()
    p = (values > 0).double().mean((0, 2, 3))
    entropies = -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)) / torch.tensor(2.0).log()
    assert first.entropy == pytest.approx(float(entropies.mean()))
    assert first.switching_entropy == pytest.approx(float(entropies[2:].mean()))
    assert first.saturated == first.always_on == 0.25
    assert first.always_off == 0


def test_a_layer_may_have_a_single_neuron():
    x = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    (row,) = rows(biased(0.5), x)
    assert (row.neurons, row.entropy, row.saturated) == (1, 1, 0)
    assert measure_signal(biased(0.5), [x]).rectifiers == (row,)


def test_what_a_neuron_does_is_told_apart():
    x = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    (row,) = rows(biased(100.0, -100.0, 0.0, 0.0), x)
    assert (row.saturated, row.always_on, row.always_off, row.entropy, row.switching_entropy) == (
        0.5,
        0.25,
        0.25,
        0.5,
        1,
    )
    assert not row.linear


def test_relu6_saturates_on_both_sides():
    x = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    (row,) = rows(biased(100.0, -100.0, 3.0, 6.0, rectifier=nn.ReLU6()), x)
    assert (row.saturated, row.always_on, row.always_off) == (0.75, 0.25, 0.25)  # the first is above, always
    assert row.entropy == 0.25  # the last passes the ceiling
    (unbounded,) = rows(biased(100.0, -100.0, 3.0, 6.0), x)
    assert (unbounded.saturated, unbounded.always_on) == (1, 0.75)


def test_a_layer_is_linear_if_all_its_neurons_are():
    x = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    assert rows(biased(100.0, -100.0), x)[0].linear
    assert rows(biased(100.0, -100.0, rectifier=nn.PReLU()), x)[0].linear
    report = measure_entropy(biased(100.0, -100.0), [x], max_batches=1)
    assert report.linear == ("0",)


def test_a_neuron_is_a_channel_of_tokens():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(4, 6), nn.Linear(6, 4)

        def forward(self, x):
            return self.fc2(functional.gelu(self.fc1(x)))

    model, x = Block(), torch.randn(3, 7, 4)
    (row,) = rows(model, x)
    assert (row.layer, row.kind, row.neurons) == ("fc1", "gelu", 6)
    flat = rows(model, x.flatten(0, 1))[0]
    assert row == flat


def test_a_layer_called_several_times_is_counted_with_all_its_values():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 2)
            nn.init.eye_(self.fc.weight)
            nn.init.zeros_(self.fc.bias)

        def forward(self, x):
            return torch.relu(self.fc(x)) + functional.leaky_relu(self.fc(-x))

    (row,) = rows(Twice(), torch.ones(3, 2))
    assert (row.layer, row.kind, row.entropy) == ("fc", "relu+leaky_relu", 1)


def test_neurons_of_other_widths_are_neurons_of_their_own():
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 3)

        def forward(self, x):
            out = self.fc(x)
            return torch.relu(out).sum() + torch.relu(torch.cat([out, out], 1)).sum()

    (row,) = rows(Joined(), torch.randn(5, 2))
    assert (row.neurons, row.kind) == (9, "relu")


class Dense(nn.Module):
    """Two layers that each see all channels before them, and a third that takes all (DenseNet, arXiv 1608.06993)."""

    def __init__(self, growth=4):
        super().__init__()
        self.first = nn.Conv2d(1, 6, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(6 + i * growth) for i in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(6 + i * growth, growth, 3, padding=1) for i in range(2))
        self.last = nn.Linear(6 + 2 * growth, 3)
        for norm in self.norms:
            nn.init.normal_(norm.running_mean)
            nn.init.normal_(norm.weight)

    def forward(self, x):
        return self.last(self.entering(x)[-1].relu().mean((2, 3)))

    def entering(self, x):
        """What enters each rectifier."""
        found, features = [], [self.first(x)]
        for i in range(3):
            found.append(self.norms[i](torch.cat(features, 1)))
            if i < 2:
                features.append(self.convs[i](functional.relu(found[-1])))
        return found


def plain_row(layer, *values):
    """The row of a layer with these values, of shape (N, C, H, W)."""
    values = torch.cat([v.transpose(0, 1).flatten(1) for v in values], 1)
    counts = ((values > 0).sum(1), (values < 0).sum(1), (values == 0).sum(1), torch.zeros(len(values)))
    return LayerEntropy.of(layer, "relu", NeuronCounts(*counts))


def test_of_concatenated_channels_each_layer_has_its_own():
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 3, 1), nn.Conv2d(1, 5, 1)

        def forward(self, x):
            return functional.relu(torch.cat([self.a(x), self.b(x)], 1))

    model, x = Joined(), torch.cat(BATCHES)
    with torch.no_grad():
        assert rows(model) == (plain_row("a", model.a(x)), plain_row("b", model.b(x)))


def test_all_layers_of_a_densely_connected_block_have_rows():
    model = Dense().eval()
    with torch.no_grad():
        first, second, third = model.entering(torch.cat(BATCHES))
    assert rows(model) == (
        plain_row("first", first, second[:, :6], third[:, :6]),
        plain_row("convs.0", second[:, 6:], third[:, 6:10]),
        plain_row("convs.1", third[:, 10:]),
    )


@pytest.mark.slow
def test_every_convolution_of_a_densenet_has_a_row():
    model = pytest.importorskip("torchvision.models").densenet121()
    found = {row.layer: row.neurons for row in rows(model, torch.randn(2, 3, 64, 64))}
    convolutions = {name: m.out_channels for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    assert found == convolutions


def test_a_layer_that_puts_out_nan_is_not_said_to_be_linear():
    model = biased(100.0, math.nan)
    (row,) = rows(model, torch.ones(3, 2))
    assert not row.linear
    assert (row.saturated, row.always_on, row.always_off) == (0.5, 0.5, 0)
    assert math.isnan(row.entropy)
    assert math.isnan(row.switching_entropy)


def test_a_network_without_rectifiers_is_an_error():
    with pytest.raises(ValueError, match=r"the batches reached no rectifier after a weighted layer of Sequential"):
        measure_entropy(nn.Sequential(nn.ReLU(), nn.Linear(2, 2), nn.Tanh()), [torch.ones(2, 2)], max_batches=1)


def test_nothing_is_changed():
    model = small_net().train()
    model[1].eval()
    before = everything(model)
    rows(model)
    assert everything(model) == before


def test_nothing_is_changed_by_a_forward_that_fails():
    model = small_net()
    before = everything(model)

    def broken(model, batch):
        model(batch)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        measure_entropy(model, BATCHES, forward=broken)
    assert everything(model) == before


def test_the_report_is_a_table_and_plain_types():
    report = measure_entropy(small_net(), BATCHES, max_batches=4)
    lines = str(report).splitlines()
    assert [line.split()[0] for line in lines] == ["layer", "0", "4"]
    assert len({len(line) for line in lines}) == 1
    content = json.loads(json.dumps(report.to_dict()))
    assert content["batches"] == 4
    assert content["layers"][0]["kind"] == "relu"


def test_a_signal_report_holds_the_same_rows():
    model = small_net()
    expected = rows(model)
    assert measure_signal(model, BATCHES, max_batches=4).rectifiers == expected
    assert measure_signal(model, BATCHES, reference=copy.deepcopy(model), max_batches=4).rectifiers == expected


def test_no_neurons_are_no_shares():
    row = LayerEntropy.of("fc", "relu", NeuronCounts(*torch.zeros(4, 0)))
    assert (row.saturated, row.entropy) == (0, 0)
