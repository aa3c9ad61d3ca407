import copy
import functools
import weakref

import numpy as np
import pytest
import torch
from helpers import Terminal
from scenarios.thinned import bits, make, plain, thinned
from torch import nn
from tqdm import tqdm
from zoo import networks
from zoo.convolutional import convolutions
from zoo.linear import Repeated, mlp
from zoo.routed import Experts

from reflow_lightning import calibrate, prune
from reflow_lightning.calibration import Reconstruct
from reflow_lightning.calibration.layer_calls import calls_of
from reflow_lightning.layers.find import find_layers
from reflow_lightning.running import batches as batches_module
from reflow_lightning.running.hooks import watching

ONCE = [
    "mlp",
    "layernorm",
    "rmsnorm",
    "convolutions",
    "groupnorm",
    "batchnorm",
    "attention",
    "attention_of_other_sizes",
]


def of_all_layers(model, batches):
    """Of every map whose inputs are laid out, in order: x of shape (groups, samples, inputs), and y likewise."""
    layers = {name: layer for name, layer in find_layers(model).known.items() if layer.stages}
    found = {}

    def take_in(name, call):
        layer = layers[name]
        for index, (affine, y) in enumerate(zip(layer.maps, layer.outputs(call), strict=True)):
            x = torch.cat(list(layer.inputs(index, call)), 1)
            y = y.movedim(1, -1).reshape(-1, affine.groups, affine.channels // affine.groups).transpose(0, 1)
            found.setdefault(affine.name, []).append((x, y))

    with torch.no_grad(), watching(model, layers, take_in):
        for batch in batches:
            model(batch)
    return {name: [torch.cat(part, 1).double() for part in zip(*pairs, strict=True)] for name, pairs in found.items()}


def maps(model):
    return {affine.name: affine for layer in find_layers(model).known.values() for affine in layer.maps}


def row_by_row(model, dense, batch, strength):
    """The plain way for linear layers: each row as its own problem, the ridge as further samples."""
    x = batch
    for layer, of_dense in zip(model, dense, strict=True):
        y = of_dense(batch)
        if isinstance(layer, nn.Linear):
            inputs, wanted = x.double().numpy(), y.double().numpy()
            centred, targets = inputs - inputs.mean(0), wanted - wanted.mean(0)
            penalty = strength * (centred**2).sum(0).mean()
            weights = layer.weight.double().numpy().copy()
            for row, old in enumerate(weights.copy()):
                kept = old != 0
                a = np.vstack([centred[:, kept], np.sqrt(penalty) * np.eye(kept.sum())])
                b = np.concatenate([targets[:, row], np.sqrt(penalty) * old[kept]])
                weights[row, kept] = np.linalg.lstsq(a, b, rcond=None)[0]
            layer.bias.copy_(torch.from_numpy(wanted.mean(0) - weights @ inputs.mean(0)))
            layer.weight.copy_(torch.from_numpy(weights))
        x, batch = layer(x), y


@pytest.mark.parametrize("strength", [1e-3, 0.01, 1.0])
@torch.no_grad()
def test_it_is_ridge_regression_of_each_row_on_its_support_layer_by_layer(strength):
    model, dense, batches = make("mlp", 3, size=64)
    model[2].weight[4] = 0
    expected = copy.deepcopy(model)
    row_by_row(expected, dense, torch.cat(batches), strength)
    Reconstruct(ridge=strength)(model, batches, plain, dense)
    for name, value in expected.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ONCE)
def test_no_layer_fits_the_dense_one_worse_than_with_its_old_weights(name):
    model, dense, batches = make(name, 2, size=64)
    old = maps(copy.deepcopy(model))
    Reconstruct()(model, batches, plain, dense)
    wanted, improved = of_all_layers(dense, batches), []
    for layer, (x, y) in of_all_layers(model, batches).items():
        affine = old[layer]
        weights = affine.matrix().double().view(affine.groups, -1, x.shape[-1])
        constant = sum(bias.double() for bias in affine.biases) if affine.biases else torch.zeros(affine.channels)
        before = x @ weights.transpose(1, 2) + constant.view(affine.groups, 1, -1)
        errors = [wanted[layer][1] - outputs for outputs in (before, y)]
        if not affine.biases and name == "batchnorm":  # that takes off the mean
            errors = [error - error.mean(1, keepdim=True) for error in errors]
        was, now = (float(error.square().sum()) for error in errors)
        assert now <= was * (1 + 1e-5) + 1e-6
        improved.append(now < 0.9 * was)
    assert any(improved)


@pytest.mark.filterwarnings("ignore:calibrate left alone")
@pytest.mark.parametrize("name", networks("repair"))
def test_the_output_comes_closer_to_that_of_the_dense_network(name):
    model, dense, batches = make(name, 2, size=64)
    batch = torch.cat(batches)
    wanted, before = dense(batch), model(batch)
    calibrate(model, batches, repair="reconstruct", reference=dense, max_batches=2)
    assert (model(batch) - wanted).norm() < 0.8 * (before - wanted).norm()


@pytest.mark.parametrize("name", [name for name in networks("repair") if name not in ("batchnorm", "preactivation")])
def test_weights_that_are_not_zero_can_all_come_back(name):
    _, dense, batches = make(name, 2, size=64)
    model = copy.deepcopy(dense)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data *= 0.7
    Reconstruct(ridge=1e-7)(model, batches, plain, dense)
    torch.testing.assert_close(model(batches[0]), dense(batches[0]), rtol=0.01, atol=0.01)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv1d(4, 8, 3, groups=4),
        nn.Conv2d(4, 6, 3, stride=2, padding="valid", groups=2, bias=False),
        nn.Conv2d(4, 4, 3, dilation=2, padding="same", padding_mode="circular"),
        nn.Conv3d(4, 4, (1, 3, 2), padding=(0, 1, 1), groups=4),
    ],
    ids=str,
)
def test_convolutions_of_all_kinds_come_back(conv):
    batch = torch.randn(32, 4, *[7] * len(conv.kernel_size))
    model = copy.deepcopy(conv)
    with torch.no_grad():
        model.weight.mul_(torch.rand(conv.weight.shape) + 0.5)
    Reconstruct(ridge=1e-9)(model, [batch], plain, conv)
    torch.testing.assert_close(model.weight, conv.weight, rtol=1e-3, atol=1e-3)


def test_inputs_that_are_laid_out_in_pieces_meet_their_own_outputs(monkeypatch):
    model, dense, batches = make("convolutions", 1)
    other = copy.deepcopy(model)
    Reconstruct()(model, batches, plain, dense)
    monkeypatch.setattr("reflow_lightning.layers.convolution._PIECE", 5000)
    Reconstruct()(other, batches, plain, dense)
    for parameter, value in model.named_parameters():
        torch.testing.assert_close(other.get_parameter(parameter), value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["mlp", "convolutions", "batchnorm", "attention"])
def test_how_the_samples_are_split_into_batches_does_not_matter(name):
    model, dense, batches = make(name, 1, size=64)
    other = copy.deepcopy(model)
    Reconstruct()(model, batches, plain, dense)
    Reconstruct()(other, batches[0].split([30, 1, 20, 13]), plain, dense)
    for parameter, value in model.named_parameters():
        torch.testing.assert_close(other.get_parameter(parameter), value, rtol=1e-3, atol=1e-4)


def test_an_activation_in_place_does_not_reach_the_outputs_of_an_earlier_call():
    class InPlace(Repeated):
        def forward(self, x):
            for _ in range(3):
                x = torch.relu_(self.layer(x))
            return self.head(x)

    dense, batch = Repeated(), torch.randn(64, 8)
    other_dense = InPlace()
    other_dense.load_state_dict(dense.state_dict())
    model, other = thinned(copy.deepcopy(dense)), thinned(copy.deepcopy(other_dense))
    Reconstruct()(model, [batch], plain, dense)
    Reconstruct()(other, [batch], plain, other_dense)
    assert bits(other) == bits(model)


class Optional(nn.Module):
    """A network with a branch that is switched off: its layer has no inputs."""

    def __init__(self):
        super().__init__()
        self.first, self.branch, self.last = nn.Linear(8, 16), nn.Linear(0, 16), nn.Linear(16, 4)

    def forward(self, x):
        return self.last(torch.relu(self.first(x) + self.branch(x[:, :0])))


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize("repair", ["reconstruct", "reselect"])
def test_a_layer_without_inputs_is_left_alone(repair):
    dense = Optional()
    model = thinned(copy.deepcopy(dense))
    with pytest.warns(UserWarning, match="calibrate left alone 'branch': its weights hold no number"):
        result = calibrate(model, [torch.randn(64, 8)] * 2, repair=repair, reference=dense, max_batches=2)
    assert result.repaired == ("first", "last")


class Deformed(nn.Module):
    def __init__(self):
        super().__init__()
        ops = pytest.importorskip("torchvision.ops")
        self.offset, self.conv = nn.Conv2d(3, 18, 3, padding=1), ops.DeformConv2d(3, 4, 3, padding=1)

    def forward(self, x):
        return self.conv(x, self.offset(x))


def test_norms_and_what_has_no_laid_out_inputs_are_left_alone():
    model, dense, batches = make("groupnorm", 2)
    Reconstruct()(model, batches, plain, dense)
    assert torch.equal(model[1].weight, dense[1].weight)
    dense, batches = Deformed(), [torch.randn(8, 3, 6, 6) for _ in range(2)]
    model = thinned(copy.deepcopy(dense))
    with pytest.warns(UserWarning, match="left alone 'conv': there are no least squares for DeformConv2d"):
        result = Reconstruct()(model, batches, plain, dense)
    assert list(result.skipped) == ["conv"]


def test_a_forward_pass_ends_with_the_layer_that_is_looked_at():
    reached = []
    model = mlp()
    model[4].register_forward_hook(lambda *_: reached.append(1))
    (call,) = calls_of(model, "2", torch.randn(4, 8), plain, 1)
    assert call.output.shape == (4, 16)
    assert not reached
    assert not model[2]._forward_hooks


def most_alive(count, held_bytes=None):
    """How many batches and activations are alive at most when a forward pass begins, and how many passes there are."""
    dense, seen, alive = convolutions(), [], []
    model = thinned(copy.deepcopy(dense))
    for module in (*model, *dense):
        module.register_forward_hook(lambda _, args, output: seen.append(weakref.ref(output)))

    class Fresh:
        def __iter__(self):
            return (torch.randn(16, 3, 6, 6) for _ in range(count))

    def forward(network, batch):
        alive.append(sum(tensor() is not None for tensor in seen))
        seen.append(weakref.ref(batch))
        return network(batch)

    Reconstruct(held_bytes=held_bytes)(model, Fresh(), forward, dense)
    return max(alive), len(alive)


def test_the_memory_does_not_grow_with_the_number_of_batches_where_none_may_wait():
    assert most_alive(12, held_bytes=0) == (most_alive(2, held_bytes=0)[0], 1 + 3 * 2 * 12)
    assert most_alive(2, held_bytes=0)[0] <= 10


def test_each_batch_runs_once_through_each_network_if_all_may_wait():
    assert most_alive(12)[1] == 1 + 2 * 12


def test_a_layer_that_only_some_batches_reach_and_one_that_none_does():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.rare, self.never = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            x = self.first(x)
            return self.rare(x) if len(x) > 16 else x

    dense = Branches()
    model = thinned(copy.deepcopy(dense))
    with pytest.warns(UserWarning, match="'never': no batch reached it"):
        result = Reconstruct()(model, [torch.randn(n, 8) for n in (32, 8, 32)], plain, dense)
    assert result.repaired == ("first", "rare")


@pytest.mark.parametrize("strength", [0, -1, True, "0.1", float("inf"), float("nan")])
def test_the_strength_of_the_ridge_must_be_positive(strength):
    with pytest.raises(ValueError, match=r"ridge=.* must be a positive number, such as 0\.01"):
        Reconstruct(ridge=strength)


def test_a_strong_ridge_changes_little():
    model, dense, batches = make("mlp", 1)
    old = copy.deepcopy(model)
    Reconstruct(ridge=1e9)(model, batches, plain, dense)
    for name, value in old.named_parameters():
        if value.ndim > 1:
            torch.testing.assert_close(model.get_parameter(name), value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("norm", [True, False])
def test_experts_that_get_other_rows_have_their_moments_matched(balanced, norm):
    torch.manual_seed(3)
    model, batches = Experts(balanced, norm).eval(), [torch.randn(64, 8) for _ in range(3)]
    dense = copy.deepcopy(model)
    prune(model, 0.6)
    with pytest.warns(UserWarning, match=r"'experts.0.0', 'experts.1.0' got other rows .*: moments, since") as caught:
        result = calibrate(model, batches, repair="reconstruct", reference=dense, max_batches=3)
    assert sum("other rows" in str(warning.message) for warning in caught) == 1
    assert {name: how for name, how in result.how.items() if "BatchNorm" not in how} == {
        "stem": "least squares",
        "gate": "least squares",
        "experts.0.0": "moments",
        "experts.1.0": "moments",
        "head": "least squares",
    }


def test_experts_that_get_the_same_rows_are_fitted():
    torch.manual_seed(3)
    model, batches = Experts().eval(), [torch.randn(64, 8) for _ in range(3)]
    dense = copy.deepcopy(model)
    prune(model, 0.6, include="experts*")
    result = calibrate(model, batches, repair=Reconstruct(), reference=dense, max_batches=3)
    assert set(result.how.values()) == {"least squares"}


def test_a_forward_that_runs_the_model_in_the_place_of_the_reference_is_an_error():
    model, dense, batches = make("mlp", 2)
    for repair in (Reconstruct(), "moments"):
        with pytest.raises(ValueError, match=r"let forward.model, batch. run the model that it is given"):
            calibrate(model, batches, repair=repair, reference=dense, forward=lambda _, x: model(x), max_batches=2)


@pytest.mark.parametrize("shown", [True, False])
def test_a_long_repair_shows_a_bar_over_the_layers_in_a_terminal(shown, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(batches_module, "tqdm", functools.partial(tqdm, file=terminal, mininterval=0))
    monkeypatch.setattr(batches_module, "BAR_DELAY", 0.0)
    model, dense, batches = make("mlp", 4)
    calibrate(model, batches, repair=Reconstruct(), reference=dense, max_batches=4, progress=shown)
    assert ("least squares" in terminal.getvalue()) == shown
    assert ("layer/s" in terminal.getvalue() or "s/layer" in terminal.getvalue()) == shown


class TwoHeads(nn.Module):
    """Each batch is of one task, and reaches the head of that task alone."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU())
        self.heads = nn.ModuleDict({"a": nn.Linear(16, 3), "b": nn.Linear(16, 2)})

    def forward(self, x, task):
        return self.heads[task](self.trunk(x))


@pytest.mark.parametrize("repair", ["reconstruct", "reselect"])
def test_a_head_that_the_first_batch_does_not_reach_is_fitted_too(repair):
    torch.manual_seed(0)
    model, batches = TwoHeads().eval(), [{"x": torch.randn(64, 8), "task": "ab"[i % 2]} for i in range(4)]
    dense = copy.deepcopy(model)
    prune(model, 0.5)

    def error(task):
        x = torch.cat([batch["x"] for batch in batches])
        return (model(x, task) - dense(x, task)).square().mean().item()

    before = {task: error(task) for task in "ab"}
    result = calibrate(model, batches, repair=repair, reference=dense)
    assert not result.skipped
    assert all(error(task) < 0.8 * before[task] for task in "ab")
