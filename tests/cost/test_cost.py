import copy
from collections import UserDict

import pytest
import torch
from torch import nn

from reflow_lightning import prune
from reflow_lightning.cost.cost import measure_cost
from reflow_lightning.experiments.models.fastgrnn import FastGRNN
from reflow_lightning.experiments.models.mobilenet import MobileNetV1
from reflow_lightning.pruning import select


class SelfAttention(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **options)

    def forward(self, x):
        return self.attention(x, x, x)[0]


def test_published_multiply_adds():
    from torchvision.models import resnet50

    assert measure_cost(MobileNetV1(), torch.zeros(1, 3, 224, 224)).multiply_adds == pytest.approx(569e6, rel=1e-3)
    assert measure_cost(resnet50(), torch.zeros(1, 3, 224, 224)).multiply_adds == pytest.approx(4.09e9, rel=1e-3)


class Wanting(nn.Module):
    """Takes what it needs out of ``**inputs``, so that no one can tell its names from outside."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 2)

    def forward(self, **inputs):
        return self.inner(inputs["values"])


def test_a_network_that_is_called_in_another_way_is_counted_with_a_forward():
    def run(model, batch):
        return model(values=batch["values"])

    cost = measure_cost(Wanting(), {"values": torch.zeros(1, 4), "labels": torch.zeros(1)}, forward=run)
    assert (cost.multiply_adds, [layer.name for layer in cost.layers]) == (8, ["inner"])


def test_products_between_activations_belong_to_no_layer_whatever_holds_the_batch():
    """As with a tokenizer's batch, which is a mapping that torch's own tree functions do not look into."""

    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(9, 4)

        def forward(self, ids):
            x = self.embedding(ids)
            return x @ x.mT

    batch = UserDict(ids=torch.zeros(1, 3, dtype=torch.long))
    cost = measure_cost(Attends(), batch, forward=lambda model, given: model(given["ids"]))
    assert cost.multiply_adds == 3 * 3 * 4
    assert [layer.multiply_adds for layer in cost.layers] == [0] * len(cost.layers)


def products(model, x):
    """Products with a weight that is not zero, output by output, and all products."""
    counts = []
    for layer in model:
        x, before = layer(x), x
        if isinstance(layer, nn.Conv2d):
            inside = nn.functional.pad(torch.ones_like(before), [layer.padding[0]] * 4, value=1)
            ones = (layer.weight != 0).float()
            seen = nn.functional.conv2d(inside, ones, stride=layer.stride, groups=layer.groups)
            every = nn.functional.conv2d(inside, torch.ones_like(ones), stride=layer.stride, groups=layer.groups)
            counts.append((int(seen.sum()), int(every.sum())))
        elif isinstance(layer, nn.Linear):
            counts.append((int((layer.weight != 0).sum()), layer.weight.numel()))
    return counts


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
def test_effective_multiply_adds_are_those_with_a_weight_that_is_not_zero(sparsity):
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 9, 3, stride=2, groups=3, bias=False),
        nn.Flatten(),
        nn.Linear(81, 5),
    )
    x = torch.randn(1, 2, 8, 8)
    prune(model, sparsity, allocation="uniform")
    cost = measure_cost(model, x)
    assert [(layer.effective, layer.multiply_adds) for layer in cost.layers] == products(model, x)
    assert cost.effective == sum(layer.effective for layer in cost.layers)
    assert cost.multiply_adds == sum(layer.multiply_adds for layer in cost.layers)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_recurrent_layers_multiply_by_every_weight_at_every_step(kind, frozen):
    model = kind(3, 4, num_layers=2, bidirectional=True, batch_first=True).requires_grad_(not frozen)
    weights = sum(p.numel() for p in select(model).values())
    assert measure_cost(model, torch.randn(1, 7, 3)).multiply_adds == 7 * weights
    prune(model, 0.75)
    assert measure_cost(model, torch.randn(1, 7, 3)).effective == 7 * (weights - round(0.75 * weights))


@pytest.mark.parametrize("ranks", [(None, None), (3, 4)])
def test_so_does_fastgrnn(ranks):
    model = FastGRNN(5, 2, 6, *ranks)
    prune(model, 0.5, include="cell.*")
    cell = [p for name, p in select(model).items() if name.startswith("cell")]
    cost = measure_cost(model, torch.randn(1, 11, 5))
    assert cost.multiply_adds == 11 * sum(p.numel() for p in cell) + 2 * 6
    assert cost.effective == 11 * sum(int(p.count_nonzero()) for p in cell) + 2 * 6


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("options", [{}, {"kdim": 8, "vdim": 8}, {"bias": False}])
def test_attention_counts_its_projections_and_the_products_between_activations(options, frozen):
    model = SelfAttention(**options).requires_grad_(not frozen)
    steps, width = 5, 8
    projections, between = steps * 4 * width * width, 2 * steps * steps * width
    cost = measure_cost(model, torch.randn(1, steps, width))
    assert cost.multiply_adds == projections + between
    prune(model, 0.5)
    cost = measure_cost(model, torch.randn(1, steps, width))
    assert cost.effective == projections // 2 + between
    assert sum(layer.weights for layer in cost.layers) == 4 * width * width


def test_a_layer_that_is_used_twice_has_one_row():
    layer = nn.Linear(4, 4)
    [row] = measure_cost(nn.Sequential(layer, nn.ReLU(), layer), torch.zeros(1, 4)).layers
    assert (row.name, row.weights, row.multiply_adds) == ("0", 16, 32)


def test_a_network_of_several_inputs_takes_them_as_a_tuple():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 3), nn.Linear(5, 3)

        def forward(self, x, y, scale):
            return self.first(x) + self.second(y) * scale

    cost = measure_cost(Sum(), (torch.zeros(1, 4), torch.zeros(1, 5), 2))
    assert [(layer.name, layer.multiply_adds) for layer in cost.layers] == [("first", 12), ("second", 15)]


def test_parameters_count_biases_and_norms():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    cost = measure_cost(model, torch.zeros(1, 3))
    assert cost.parameters == 12 + 4 + 8
    assert cost.nonzero == 12 + 4 + 4  # a fresh norm has biases of zero
    assert cost.to_dict()["layers"][0]["weights"] == 12


def test_the_model_and_the_process_are_as_before():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 2))
    model[1].eval()
    model(torch.randn(2, 1, 6, 6)).sum().backward()
    state, flags = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    gradients, rng = [p.grad.clone() for p in model.parameters()], torch.get_rng_state()
    switches = torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled
    measure_cost(model, torch.randn(1, 1, 6, 6, generator=torch.Generator().manual_seed(0)))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == flags
    assert all(torch.equal(p.grad, gradient) for p, gradient in zip(model.parameters(), gradients, strict=True))
    assert torch.equal(torch.get_rng_state(), rng)
    after = torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled
    assert after == switches


class Functional(nn.Module):
    """Uses a layer's weight without calling the layer, as torchvision's Swin does, and has two names for another."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.last = nn.Linear(8, 3)
        self.again = nn.Sequential(self.last)

    def forward(self, x):
        return self.again(nn.functional.linear(x, self.first.weight, self.first.bias))


def test_weights_count_however_they_are_used_and_named():
    model = Functional()
    prune(model, 0.5, allocation="uniform")
    cost = measure_cost(model, torch.randn(1, 6))
    assert [(layer.name, layer.multiply_adds, layer.effective) for layer in cost.layers] == [
        ("first", 48, 24),
        ("last", 24, 12),
    ]
    assert cost.effective == 36
