"""What is known of each kind of layer, wherever it comes from: its weights, its channels, its inputs."""

import copy

import pytest
import torch
from torch import nn

from reflow_lightning import calibrate, measure_signal, prune
from reflow_lightning.layers import Call, Inventory, Layer, Weight, layer_of
from reflow_lightning.pruning import select


class FirstNorm(nn.LayerNorm):
    """A norm of the second dimension, as vision libraries derive it; nothing in its name says so."""

    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class SequenceNorm(nn.LayerNorm):
    """A norm of the second of exactly three dimensions."""

    def forward(self, x):
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class WideNorm(nn.LayerNorm):
    """A norm of the last dimension with a forward of its own."""

    def forward(self, x):
        return super().forward(x.double()).to(x.dtype) if x.dtype == torch.float16 else super().forward(x)


class FlatNorm(nn.LayerNorm):
    """A norm of the last dimension that lays rows side by side."""

    def forward(self, x):
        return super().forward(x.reshape(-1, self.normalized_shape[0])).view_as(x)


class CountingNorm(FirstNorm):
    """Counts its calls in a buffer."""

    def __init__(self, channels):
        super().__init__(channels)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


def test_trying_a_norm_leaves_its_buffers_and_flags_alone():
    module = CountingNorm(8)
    assert layer_of.known(module).channel_dim == 1
    assert (module.calls.item(), module.training) == (0, True)


@pytest.mark.parametrize(
    ("module", "dim"),
    [
        (FlatNorm(8), -1),
        (FirstNorm(3), 1),
        (WideNorm(3), -1),
        (nn.LayerNorm(8), -1),
        (nn.RMSNorm(8), -1),
        (FirstNorm(8), 1),
        (FirstNorm(8).double(), 1),
        (SequenceNorm(8), 1),
        (WideNorm(8), -1),
        (nn.BatchNorm2d(8), 1),
        (nn.GroupNorm(2, 8), 1),
        (nn.InstanceNorm1d(8, affine=True), 1),
    ],
)
def test_where_the_channels_of_a_norm_are(module, dim):
    known = layer_of.known(module)
    assert (known.is_norm, known.channel_dim) == (True, dim)


def test_trying_a_norm_leaves_the_random_state_and_the_module_alone():
    class Noisy(FirstNorm):
        def forward(self, x):
            return super().forward(x) + 0 * torch.rand(())

    module, state = Noisy(8), torch.get_rng_state()
    before = copy.deepcopy(module.state_dict())
    assert layer_of.known(module).channel_dim == 1
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_signal_is_measured_along_the_channels_of_a_norm_of_images():
    net, x = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), FirstNorm(8), nn.ReLU()), torch.randn(16, 3, 5, 7)
    with torch.no_grad():
        for parameter in net[1].parameters():
            parameter[:6] = 0
    (row,) = measure_signal(net, [x], max_batches=1, layers="1").rows
    assert (row.channels, row.dead) == (8, 0.75)


@pytest.mark.parametrize("name", ["LayerNorm2d", "BatchNormAct2d", "GroupNorm1", "LayerNormAct2d", "SyncBatchNormAct"])
def test_norms_of_timm_have_their_channels_in_dimension_1(name):
    kind = getattr(pytest.importorskip("timm.layers"), name)
    assert layer_of.known(kind(8)).channel_dim == 1


def test_norms_of_torchvision_have_their_channels_in_dimension_1():
    convnext = pytest.importorskip("torchvision.models.convnext")
    assert layer_of.known(convnext.LayerNorm2d(8)).channel_dim == 1


def test_a_batchnorm_with_an_activation_follows_a_layer_as_any_other():
    timm = pytest.importorskip("timm.layers")
    net = nn.Sequential(nn.Conv2d(3, 4, 3), timm.BatchNormAct2d(4), nn.Flatten(), nn.Linear(144, 2))
    rows = measure_signal(net, [torch.randn(8, 3, 8, 8)], max_batches=1).rows
    assert [row.name for row in rows] == ["1", "3"]


def conv1d(outputs, inputs):
    torch.manual_seed(0)
    layer = pytest.importorskip("transformers.pytorch_utils").Conv1D(outputs, inputs)
    nn.init.normal_(layer.weight)
    return layer


def test_the_linear_layer_of_gpt2_is_pruned_along_its_inputs():
    layer = conv1d(4, 8)
    assert Inventory.of(layer).stored[id(layer.weight)].inputs == 0
    mask = prune(layer, 0.5, pattern="2:4")["weight"]
    assert (mask.view(2, 4, 4).sum(1) == 2).all()


@pytest.mark.parametrize("repair", ["moments", "reconstruct", "align"])
def test_the_linear_layer_of_gpt2_is_repaired_like_one_of_torch(repair):
    dense, batch = nn.Sequential(conv1d(6, 8), nn.Tanh(), nn.Linear(6, 3)), torch.randn(64, 8)
    same = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))
    same.load_state_dict(dense.state_dict() | {"0.weight": dense[0].weight.T})
    found = []
    for network in (dense, same):
        model = copy.deepcopy(network)
        prune(model, 0.5, include="0.*")
        calibrate(model, [batch], repair=repair, reference=network, max_batches=1)
        found.append(model(batch))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_the_inputs_of_gpt2_s_linear_layer_rank_its_weights():
    layer, batch = conv1d(3, 4), torch.randn(16, 4)
    same = nn.Linear(4, 3)
    same.load_state_dict({"weight": layer.weight.T, "bias": layer.bias})
    masks = [prune(one, 0.5, criterion="wanda", batches=[batch], max_batches=1)["weight"] for one in (layer, same)]
    assert torch.equal(masks[0], masks[1].T)


def test_a_bilinear_layer_is_pruned_ranked_and_its_map_is_what_it_computes():
    torch.manual_seed(0)
    layer, a, b = nn.Bilinear(3, 4, 5), torch.randn(7, 3), torch.randn(7, 4)
    assert list(select(layer)) == ["weight"]
    known, call = layer_of(layer, ""), Call((a, b), {}, layer(a, b))
    (x,) = known.inputs(0, call)
    torch.testing.assert_close(x[0] @ known.maps[0].matrix().T + layer.bias, call.output)
    ((name, energy),) = known.energies(call)
    assert name == "weight"
    torch.testing.assert_close(energy[0], (a[:, :, None] * b[:, None]).double().square().sum(0))


def test_a_deformable_convolution_is_pruned_and_rescaled():
    ops = pytest.importorskip("torchvision.ops")

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.offset, self.conv = nn.Conv2d(3, 18, 3, padding=1), ops.DeformConv2d(3, 4, 3, padding=1)

        def forward(self, x):
            return self.conv(x, 0.1 * self.offset(x))

    torch.manual_seed(0)
    dense, batch = Net(), torch.randn(4, 3, 6, 6)
    model = copy.deepcopy(dense)
    assert list(prune(model, 0.5)) == ["offset.weight", "conv.weight"]
    result = calibrate(model, [batch], repair="moments", reference=dense, max_batches=1)
    assert result.repaired == ("offset", "conv")
    torch.testing.assert_close(model(batch).std((0, 2, 3)), dense(batch).std((0, 2, 3)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d])
def test_a_pattern_of_a_transposed_convolution_counts_along_its_inputs(kind):
    torch.manual_seed(0)
    mask = prune(kind(8, 3, 2), 0.5, pattern="2:4")["weight"]
    assert (mask.movedim(0, -1).reshape(-1, 4).sum(1) <= 2).all()
    with pytest.raises(ValueError, match=r"needs dimension 0 of 'weight' \(6, 4.*, along the inputs, to be a multiple"):
        prune(kind(6, 4, 2), 0.5, pattern="2:4")


def test_every_kind_says_which_of_its_weights_may_be_pruned():
    model = nn.ModuleDict(
        {
            "attention": nn.MultiheadAttention(4, 2),
            "projected": nn.LSTM(3, 4, proj_size=2),
            "embedding": nn.Embedding(3, 4),
            "up": nn.ConvTranspose2d(4, 4, 2, groups=2),
        }
    )
    weights = Inventory.of(model).weights
    assert [name for name in weights if weights[name].parameter is not None] == [
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "projected.weight_ih_l0",
        "projected.weight_hh_l0",
        "projected.weight_hr_l0",
        "up.weight",
    ]
    assert weights["up.weight"].weight == Weight("weight", inputs=0, outputs=1, groups=2)


def test_what_a_layer_of_the_user_says_is_checked_before_anything_is_done():
    class Lonely(nn.Linear):
        pass

    class Wrong(Layer):
        weights = (Weight("kernel"),)

    layer_of.register(Lonely, Wrong)
    with pytest.raises(ValueError, match=r"layer '0' \(Lonely\) has no weight 'kernel', as Wrong says: mend"):
        prune(nn.Sequential(Lonely(2, 2)), 0.5)


def test_the_linear_layer_of_torch_geometric_is_known_by_its_name():
    """The package is not installed: a class of the same name stands for it."""

    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(3))

        def forward(self, x):
            return nn.functional.linear(x, self.weight, self.bias)

    Linear.__module__, Linear.__qualname__ = "torch_geometric.nn.dense.linear", "Linear"
    layer = layer_of(Linear(), "lin")
    assert [m.channels for m in layer.maps] == [3]
