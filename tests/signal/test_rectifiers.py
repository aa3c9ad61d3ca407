import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from reflow_lightning.signal.rectifiers import watching_rectifiers


def heard(model, *inputs):
    calls = []
    with torch.no_grad(), watching_rectifiers(model.eval(), lambda call: calls.append((call, call.values.clone()))):
        model(*inputs)
    return calls


def pairs(model, *inputs):
    return [(call.layer, call.kind) for call, _ in heard(model, *inputs)]


class Calls(nn.Module):
    """A layer and a function after it."""

    def __init__(self, function):
        super().__init__()
        self.fc, self.function = nn.Linear(3, 4), function

    def forward(self, x):
        return self.function(self.fc(x))


class Block(nn.Module):
    """A residual block with a shortcut of its own, which is added first."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.downsample = nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.downsample(x) + self.bn2(self.conv2(out)))


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        (nn.ReLU(), "relu"),
        (nn.ReLU(inplace=True), "relu"),
        (nn.ReLU6(), "relu6"),
        (nn.Hardtanh(0, 6), "relu6"),
        (nn.Hardtanh(0, 2), "hardtanh"),
        (nn.LeakyReLU(), "leaky_relu"),
        (nn.LeakyReLU(inplace=True), "leaky_relu"),
        (nn.PReLU(), "prelu"),
        (nn.RReLU(), "rrelu"),
        (nn.GELU(), "gelu"),
        (nn.SiLU(), "silu"),
        (nn.Hardswish(), "hardswish"),
        (nn.ELU(), "elu"),
    ],
)
def test_modules_are_heard(module, kind):
    assert pairs(Calls(module), torch.randn(2, 3)) == [("fc", kind)]


@pytest.mark.parametrize(
    "function",
    [
        torch.relu,
        torch.relu_,
        torch.Tensor.relu,
        torch.Tensor.relu_,
        functional.relu,
        lambda x: functional.relu(input=x),
    ],
)
def test_functions_are_heard(function):
    assert pairs(Calls(function), torch.randn(2, 3)) == [("fc", "relu")]


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (functional.relu6, "relu6"),
        (lambda x: functional.hardtanh_(x, 0.0, 6.0), "relu6"),
        (lambda x: functional.hardtanh(x, min_val=0, max_val=6), "relu6"),
        (lambda x: torch.prelu(x, torch.tensor([0.2])), "prelu"),
        (functional.elu_, "elu"),
        (functional.gelu, "gelu"),
    ],
)
def test_functions_of_other_kinds_are_heard(function, kind):
    assert pairs(Calls(function), torch.randn(2, 3)) == [("fc", kind)]


@pytest.mark.parametrize("function", [torch.tanh, torch.sigmoid, nn.Hardtanh(), nn.Identity()])
def test_what_is_no_rectifier_is_not(function):
    assert pairs(Calls(function), torch.randn(2, 3)) == []


def test_a_rectifier_of_the_input_itself_has_no_layer():
    assert pairs(nn.Sequential(nn.ReLU(), nn.Linear(3, 3), nn.ReLU()), torch.randn(2, 3)) == [("1", "relu")]


@pytest.mark.parametrize("rectifier", [nn.ReLU(inplace=True), torch.relu_, torch.Tensor.relu_])
def test_values_are_those_before_an_inplace_rectifier_overwrites_them(rectifier):
    model, x = Calls(rectifier), torch.randn(8, 3)
    ((_, values),) = heard(model, x)
    assert torch.equal(values, model.fc(x))
    assert (values < 0).any()


def test_after_an_addition_the_layer_is_the_last_of_the_block_and_never_the_shortcut():
    assert pairs(Block(), torch.randn(2, 2, 5, 5)) == [("conv1", "relu"), ("conv2", "relu")]


def test_an_addition_in_place_is_an_addition():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.shortcut, self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            out = self.shortcut(x)
            out += self.b(self.a(x))
            return functional.relu(out)

    assert pairs(Net(), torch.randn(2, 3)) == [("b", "relu")]


def test_of_paths_of_one_length_the_first_counts():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            right, left = self.b(x), self.a(x)
            return functional.relu(left + right)

    assert pairs(Net(), torch.randn(2, 3)) == [("a", "relu")]


def test_channels_are_the_second_dimension_of_a_convolution_and_the_last_of_a_linear_layer():
    tokens = nn.Sequential(
        nn.Conv2d(3, 6, 2, 2), nn.Flatten(2), Transposed(), nn.LayerNorm(6), nn.Linear(6, 5), nn.GELU()
    )
    ((call, _),) = heard(tokens, torch.randn(2, 3, 8, 8))
    assert (call.layer, call.dim, tuple(call.values.shape)) == ("4", 2, (2, 16, 5))
    ((call, _),) = heard(tokens[:4].append(nn.ReLU()), torch.randn(2, 3, 8, 8))
    assert (call.layer, call.dim) == ("0", 2)
    for n, kind in enumerate((nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)):
        shape = (2, 3, *[4] * (2 if n == 3 else n + 1))
        ((call, _),) = heard(nn.Sequential(kind(3, 4, 1), nn.ReLU()), torch.randn(shape))
        assert call.dim == 1


class Transposed(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


@pytest.mark.parametrize(
    ("move", "dim"),
    [
        (lambda x: x.permute(0, 2, 3, 1), 3),
        (lambda x: x.movedim(1, -1), 3),
        (lambda x: x.transpose(1, 3), 3),
        (lambda x: x[:, :, 0].mT, 2),
        (lambda x: x[:, :, 0, 0].T, 0),
        (lambda x: x.flatten(2), 1),
        (lambda x: x.flatten(1), 1),
        (lambda x: x.mean((2, 3)), 1),
        (lambda x: x[:, :, 0], 1),
        (lambda x: x.unsqueeze(1), 2),
        (lambda x: torch.cat([x, x], 1), 1),
        (lambda x: functional.adaptive_avg_pool2d(x, 1), 1),
        (lambda x: x.permute(0, 2, 3, 1).flatten(0, 2), 1),
        (lambda x: x.permute(0, 2, 3, 1).mean((1, 2)), 1),
        (lambda x: x.chunk(2, 1)[1], 1),
    ],
)
def test_the_channel_dimension_follows_what_is_done_to_the_layout(move, dim):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Apply(move), nn.ReLU())
    ((call, _),) = heard(model, torch.randn(4, 3, 4, 4))  # all sizes are the same
    assert (call.layer, call.dim) == ("0", dim)


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Joined(nn.Module):
    """Layers side by side whose outputs are 1 and 2 everywhere, and what a function makes of them."""

    def __init__(self, function, channels=(2, 4), layer=lambda width: nn.Conv2d(3, width, 1)):
        super().__init__()
        self.a, self.b = (layer(width) for width in channels)
        self.function = function
        for value, layer in enumerate((self.a, self.b), start=1):
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, value)

    def forward(self, x):
        return functional.relu(self.function(self.a(x), self.b(x), x))


def after_cat(function):
    return lambda a, b, x: function(torch.cat([a, b], 1))


def parts(model, *inputs):
    """The layer of each part that a rectifier met, its number of channels, and the one value that it holds."""
    found = []
    for call, values in heard(model, *inputs):
        (value,) = values.unique().tolist()
        found.append((call.layer, values.shape[call.dim], value))
    return found


@pytest.mark.parametrize(
    "join",
    [
        lambda a, b, x: torch.cat([a, b], 1),
        lambda a, b, x: torch.cat((a, b), dim=-3),
        lambda a, b, x: torch.cat(tensors=(a, b), axis=1),
        lambda a, b, x: torch.concat([a, b], 1),
        lambda a, b, x: torch.concatenate([a, b], 1),
        lambda a, b, x: torch.cat([torch.zeros(0), a, b], 1),  # it counts for nothing
        lambda a, b, x: torch.cat([a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)], -1),
    ],
)
def test_after_a_concatenation_of_channels_each_layer_is_met_with_its_own(join):
    assert parts(Joined(join), torch.ones(2, 3, 4, 4)) == [("a", 2, 1), ("b", 4, 2)]


@pytest.mark.parametrize(
    "keep",
    [
        nn.BatchNorm2d(6, eps=1e-12).eval(),
        nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Dropout().eval(),
        lambda x: x + torch.zeros(6, 1, 1),
        lambda x: torch.zeros(1) + x,
        lambda x: functional.pad(x, (1, 1, 1, 1), mode="replicate"),
        lambda x: functional.interpolate(x, scale_factor=2),
        lambda x: x.transpose(1, 3),
        lambda x: x.permute(2, 1, 0, 3),
        lambda x: x[:, :, 0].mT,
        lambda x: x[1],
        lambda x: x[:, :, 1:3],
        lambda x: x.mean((2, 3)),
        lambda x: x.flatten(2).transpose(1, 2).flatten(0, 1),
        lambda x: x.unsqueeze(1),
        lambda x: x[:, :, 0, 0].unsqueeze_(1),
        lambda x: x.clone().contiguous(),
        lambda x: x.chunk(2, 0)[1],
    ],
)
def test_layers_are_told_apart_as_long_as_their_channels_stay(keep):
    assert parts(Joined(after_cat(keep)), torch.ones(2, 3, 4, 4)) == [("a", 2, 1), ("b", 4, 2)]


def test_layers_are_told_apart_after_a_rectifier_too():
    model = Joined(after_cat(nn.LeakyReLU()))
    assert parts(model, torch.ones(2, 3, 4, 4)) == 2 * [("a", 2, 1), ("b", 4, 2)]


def test_a_flattened_channel_is_several_features_of_its_layer():
    assert parts(Joined(after_cat(nn.Flatten())), torch.ones(2, 3, 4, 4)) == [("a", 32, 1), ("b", 64, 2)]


@pytest.mark.parametrize(
    ("change", "channels"),
    [
        (lambda x: x[:, 1:], 5),
        (lambda x: x.narrow(1, 0, 3), 3),
        (lambda x: x.chunk(2, 1)[0], 3),
        (lambda x: x.split([1, 5], 1)[1], 5),
        (lambda x: x.unflatten(1, (3, 2)), 3),
        (lambda x: x.repeat(1, 2, 1, 1), 12),
        (lambda x: x.permute(0, 2, 3, 1).flatten(1), 96),
        (lambda x: x.mean(1, keepdim=True), 1),
        (lambda x: torch.matmul(torch.ones(4, 4), x), 6),
    ],
)
def test_where_channels_are_mixed_all_are_the_deepest_layers(change, channels):
    ((call, values),) = heard(Joined(after_cat(change)), torch.ones(2, 3, 4, 4))
    assert (call.layer, values.shape[call.dim]) == ("a", channels)  # the first, as both are as deep


def test_channels_of_the_input_have_no_layer():
    assert parts(Joined(lambda a, b, x: torch.cat([x, a, x, b], 1)), torch.ones(2, 3, 4, 4)) == [
        ("a", 2, 1),
        ("b", 4, 2),
    ]


def test_channels_that_one_layer_made_twice_are_met_at_once():
    ((call, values),) = heard(Joined(lambda a, b, x: torch.cat([a, -a], 1)), torch.ones(2, 3, 4, 4))
    assert (call.layer, values.shape) == ("a", (2, 4, 4, 4))


@pytest.mark.parametrize("dim", [0, 2, 3])
def test_a_concatenation_of_samples_or_positions_is_the_deepest_operands(dim):
    model = Joined(lambda a, b, x: torch.cat([a, b + 0 * a.relu()], dim), channels=(4, 4))
    calls = heard(model, torch.ones(2, 3, 4, 4))
    assert [call.layer for call, _ in calls] == ["a", "a"]
    assert [tuple(values.shape)[dim] for _, values in calls] == [[2, 3, 4, 4][dim], 2 * [2, 3, 4, 4][dim]]


def test_in_a_sum_the_deepest_term_counts_with_its_layers():
    class Net(Joined):
        def __init__(self):
            super().__init__(None)
            self.shortcut = nn.Conv2d(3, 6, 1)
            nn.init.zeros_(self.shortcut.weight)
            nn.init.zeros_(self.shortcut.bias)

        def forward(self, x):
            a = self.a(x)
            return functional.relu(self.shortcut(x) + torch.cat([a, self.b(a.expand(-1, 2, -1, -1)[:, [0, 0, 1]])], 1))

    assert parts(Net(), torch.ones(2, 3, 4, 4)) == [("a", 2, 1), ("b", 4, 2)]


def test_features_are_channels_as_well():
    model = Joined(lambda a, b, x: torch.cat([a, b], -1), layer=lambda width: nn.Linear(3, width))
    assert parts(model, torch.ones(2, 5, 3)) == [("a", 2, 1), ("b", 4, 2)]


def test_a_rectifier_of_a_single_number_is_passed_over():
    assert pairs(Calls(lambda x: functional.relu(x.mean())), torch.randn(2, 3)) == []


def test_a_ceiling_belongs_to_relu6_alone():
    for module, ceiling in ((nn.ReLU6(), 6), (nn.Hardtanh(0, 2), 2), (nn.ReLU(), math.inf), (nn.Hardswish(), math.inf)):
        ((call, _),) = heard(Calls(module), torch.randn(2, 3))
        assert call.ceiling == ceiling


def test_a_transformer_block_has_one_rectifier():
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
    assert torch.backends.mha.get_fastpath_enabled()
    ((call, _),) = heard(nn.Sequential(model), torch.randn(2, 5, 8))
    assert (call.layer, call.kind, tuple(call.values.shape), call.dim) == ("0.linear1", "gelu", (2, 5, 16), 2)
    assert torch.backends.mha.get_fastpath_enabled()


def test_parametrized_weights_and_bare_ones_are_weights_too():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Module()
            self.inner.matrix = nn.Parameter(torch.randn(3, 4))

        def forward(self, x):
            return torch.relu(x @ self.inner.matrix)

    assert pairs(Bare(), torch.randn(2, 3)) == [("inner", "relu")]
    normalised = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.ReLU())
    assert pairs(normalised, torch.randn(2, 3)) == [("0", "relu")]


def test_a_learned_input_is_no_layer():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.fc = nn.Parameter(torch.randn(5, 3)), nn.Linear(3, 4)

        def forward(self, x):
            return torch.relu(self.fc(self.query)) + x

    assert pairs(Net(), torch.randn(5, 4)) == [("fc", "relu")]


def test_a_recurrent_layer_is_a_layer():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = nn.GRU(3, 4, batch_first=True)

        def forward(self, x):
            return torch.relu(self.gru(x)[0])

    ((call, _),) = heard(Net(), torch.randn(2, 5, 3))
    assert (call.layer, call.dim) == ("gru", 2)


def test_a_compiled_model_is_heard_like_others():
    model = torch.compile(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), backend="eager")
    assert pairs(model, torch.randn(2, 3)) == [("_orig_mod.0", "relu")]


def test_the_output_is_the_same_and_a_failure_leaves_nothing_behind():
    model, x = Block().eval(), torch.randn(2, 2, 5, 5)
    expected = model(x)
    with watching_rectifiers(model, lambda call: None):
        assert torch.equal(model(x), expected)

    def broken(call):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), watching_rectifiers(model, broken):
        model(x)
    assert torch.equal(model(x), expected)
    assert torch.backends.mha.get_fastpath_enabled()


def test_tensors_are_not_kept_alive():
    import weakref

    alive = []

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x):
            first = self.fc(x)
            reference = weakref.ref(first)
            second = first + 1
            del first
            alive.append(reference() is not None)
            return torch.relu(second)

    with torch.no_grad():
        pairs(Net(), torch.randn(2, 3))
    assert alive == [False]


def test_activations_of_any_layout_are_heard():
    layer, heard = nn.Linear(3, 4), []
    with watching_rectifiers(layer, heard.append):
        torch.relu(layer(torch.randn(2, 3)).to_sparse())
    assert len(heard) == 1
