"""Functions that are given parameters of a network are done by modules, if nothing else can tell."""

import pytest
import torch
from scenarios.wrecked import parameters, same, shake, widths
from torch import nn
from torch.nn import functional
from zoo.decoders import ActNorm, NamedNorm, Up
from zoo.odd import Forward

from reflow_lightning.collapse import collapse, collapse_report
from reflow_lightning.collapse.facts.analysis import Analysis
from reflow_lightning.collapse.graph.tracing import trace
from reflow_lightning.collapse.passes.modules import use_modules

IMAGES = (2, 3, 6, 6)


class Plain(nn.BatchNorm2d):
    """A class of one's own that changes nothing."""


class Rectified(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()


class Bare(nn.BatchNorm2d):
    def __init__(self, channels):
        super().__init__(channels, affine=False)

    def forward(self, x):
        return functional.batch_norm(x, self.running_mean, self.running_var, eps=self.eps)


class Frozen(nn.Module):
    """As in torchvision: computed from buffers."""

    def __init__(self, channels):
        super().__init__()
        for name, value in {"weight": 1.0, "bias": 0.3, "running_mean": 0.2, "running_var": 2.0}.items():
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x):
        scale = self.weight.reshape(1, -1, 1, 1) * (self.running_var.reshape(1, -1, 1, 1) + 1e-5).rsqrt()
        return x * scale + (self.bias.reshape(1, -1, 1, 1) - self.running_mean.reshape(1, -1, 1, 1) * scale)


def net(norm):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, padding=1, bias=False), norm(16), nn.ReLU(), nn.Conv2d(16, 16, 3), norm(16)]
    model = nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(16, 4, 1)).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
        model[0].weight[4:], model[3].weight[4:], model[3].bias[4:] = 0, 0, 0
    return model


@pytest.mark.parametrize("norm", [Plain, Rectified, Bare, ActNorm, NamedNorm, Frozen])
def test_channels_go_through_a_norm_as_through_that_of_torch(norm):
    model, images = net(norm), torch.randn(IMAGES)
    collapsed, reference = collapse(model, images), collapse(net(nn.BatchNorm2d), images)
    assert same(model, collapsed, (3 * torch.randn(5, 3, 6, 6),)) < 1e-5
    assert widths(collapsed)["3"] == widths(reference)["3"] == 4
    assert parameters(collapsed) <= parameters(reference) + 20 * (norm is Frozen)
    if norm is not Frozen:
        assert [type(m) for m in collapsed.modules() if isinstance(m, nn.BatchNorm2d)] == []


def functions(model, *inputs):
    analysis = Analysis(trace(model, inputs), [inputs])
    rows = use_modules(analysis.steps, analysis.values)
    assert same(model.eval(), analysis.traced, inputs) < 1e-6
    return [row.where for row in rows], analysis.traced


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (4, 3, 5, 5), (4, 3, 2, 3, 4)])
def test_the_module_fits_the_dimensions_and_holds_the_same_values(shape):
    norm = NamedNorm(3)
    names, traced = functions(nn.Sequential(norm), torch.randn(shape))
    assert names == ["0.batch_norm"]
    made = traced.get_submodule("0.batch_norm")
    assert torch.equal(made.running_mean, norm.centre)
    assert (made.bias, made.eps) == (None, 1e-3)
    assert {name for name, _ in traced.named_parameters()} == {"0.batch_norm.weight"}


@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_convolution_that_is_called_as_a_function_becomes_a_layer(groups):
    names, traced = functions(nn.Sequential(Up(4, 6, groups)), torch.randn(2, 4, 3, 3))
    assert names == ["0.conv_transpose2d"]
    assert traced.get_submodule("0.conv_transpose2d").out_channels == 6


def test_names_that_are_taken_are_left_to_those_that_have_them():
    layers = {"batch_norm": NamedNorm(3), "norm": NamedNorm(3)}
    names, _ = functions(Forward(lambda m, x: m.norm(m.batch_norm(x)), **layers), torch.randn(IMAGES))
    assert names == ["batch_norm.batch_norm", "norm.batch_norm"]


def of_batch(m, x):
    return functional.batch_norm(x, None, None, m.a.weight, m.a.bias, training=True)


def twice(m, x):
    return m.norm(m.norm(x))


def with_another_use(m, x):
    return m.norm(x) * m.norm.gain.view(1, -1, 1, 1)


def with_its_holder_called(m, x):
    return functional.batch_norm(m.a(x), m.norm.centre, m.norm.spread, m.a.weight)


def with_computed_weight(m, x):
    return functional.batch_norm(x, m.a.running_mean, m.a.running_var, m.a.weight.abs(), m.a.bias)


def with_an_input(m, x):
    return functional.conv_transpose2d(x, x.mean(0, keepdim=True).transpose(0, 1))


@pytest.mark.parametrize(
    "run", [of_batch, twice, with_another_use, with_its_holder_called, with_computed_weight, with_an_input]
)
def test_what_is_computed_shared_or_of_the_batch_stays_a_function(run):
    assert functions(Forward(run, a=nn.BatchNorm2d(3), norm=NamedNorm(3)), torch.randn(IMAGES))[0] == []


def test_a_check_of_values_stays_and_one_of_sizes_does_not():
    def run(m, x):
        torch._assert(x.shape[1] == 3, "channels")
        torch._assert((x > -100).all(), "too small")
        return m.a(x)

    model = Forward(run, a=nn.BatchNorm2d(3)).eval()
    collapsed = collapse(model, torch.randn(IMAGES))
    assert sum(node.target is torch._assert for node in collapsed.graph.nodes) == 1
    with pytest.raises(AssertionError, match="too small"):
        collapsed(torch.full(IMAGES, -200.0))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnetv2_18", "efficientnet_b0", "mobilenetv3_small_100", "regnetx_002"])
def test_networks_of_timm_lose_as_much_as_with_norms_of_torch(name):
    timm = pytest.importorskip("timm")

    def network():
        torch.manual_seed(0)
        model = timm.create_model(name, pretrained=False, num_classes=5)
        shake(model)
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.Conv2d):
                    module.weight[torch.rand(len(module.weight)) < 0.5] = 0
        return model.eval()

    def with_norms_of_torch(model):
        for child_name, child in list(model.named_children()):
            if isinstance(child, timm.layers.BatchNormAct2d):
                norm = nn.BatchNorm2d(child.num_features, child.eps)
                norm.load_state_dict(child.state_dict())
                setattr(model, child_name, nn.Sequential(norm, child.act))
            else:
                with_norms_of_torch(child)
        return model.eval()

    model, images = network(), torch.randn(2, 3, 64, 64)
    collapsed = collapse(model, images)
    assert parameters(collapsed) == parameters(collapse(with_norms_of_torch(network()), images)) < parameters(model)
    assert same(model, collapsed, (torch.randn(3, 3, 64, 64),)) < 1e-5
    assert not [row for row in collapse_report(collapsed).left if row.where.startswith("batch_norm")]
