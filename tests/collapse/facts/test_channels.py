import pytest
import torch
from torch import nn
from torch.nn import functional
from zoo.odd import Forward
from zoo.residual import Residual

from reflow_lightning.collapse.facts.analysis import Analysis
from reflow_lightning.collapse.graph.tracing import trace

IMAGES = torch.zeros(1, 3, 6, 6)


class Found:
    """The channels of a model by the names of its layers."""

    def __init__(self, model, given=IMAGES):
        self.analysis = Analysis(trace(model.eval()), [(given,)])
        self.channels = self.analysis.channels
        self.nodes = {str(n.target) if n.op == "call_module" else n.name: n for n in self.analysis.traced.graph.nodes}

    def numbers(self, name):
        axis = self.channels.axis(self.nodes[name])
        return None if axis is None else axis.numbers.tolist()

    def pinned(self, name):
        return bool(self.channels.groups.is_pinned(self.channels.labels[self.nodes[name]]).all())


def of(run, **layers):
    layers = {"conv": nn.Conv2d(3, 4, 3, padding=1), "head": nn.Conv2d(4, 2, 1), **layers}
    return Found(Forward(run, **layers))


def test_a_layer_has_channels_of_its_own_which_rectifiers_norms_and_pools_hand_on():
    found = Found(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 2, 1)))
    assert len(set(found.numbers("0"))) == 4
    assert found.numbers("0") == found.numbers("1") == found.numbers("2") == found.numbers("3")
    assert not found.pinned("0")
    assert found.pinned("4")


def test_the_channels_of_a_sum_are_the_same_in_both_operands():
    found = Found(nn.Sequential(nn.Conv2d(3, 4, 1), Residual(4, 4), nn.Conv2d(4, 2, 1)))
    assert found.numbers("0") == found.numbers("1.conv2") == found.numbers("1.bn2")
    assert set(found.numbers("1.conv1")).isdisjoint(found.numbers("0"))


def test_zeros_that_pad_a_shortcut_are_channels_too():
    found = Found(nn.Sequential(nn.Conv2d(3, 4, 1), Residual(4, 6, "zeros"), nn.Conv2d(6, 2, 1)))
    assert found.numbers("1.conv2")[:4] == found.numbers("0")
    assert len(set(found.numbers("1.conv2"))) == 6


def test_put_together_channels_keep_their_numbers():
    found = of(
        lambda m, x: m.head(torch.cat([m.conv(x), m.other(x)], 1)), other=nn.Conv2d(3, 2, 1), head=nn.Conv2d(6, 2, 1)
    )
    assert found.numbers("cat") == found.numbers("conv") + found.numbers("other")


def test_a_depthwise_convolution_hands_its_channels_on_and_a_grouped_one_ties_those_of_a_group():
    found = Found(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 3, groups=4), nn.Conv2d(8, 2, 1)))
    assert found.numbers("1") == [n for n in found.numbers("0") for _ in range(2)]
    found = Found(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 3, groups=2), nn.Conv2d(6, 2, 1)))
    first, second = found.numbers("0")[0], found.numbers("0")[2]
    assert found.numbers("0") == [first] * 2 + [second] * 2
    assert found.numbers("1") == [first] * 3 + [second] * 3


@pytest.mark.parametrize(
    "flatten", [lambda x: x.flatten(1), lambda x: x.view(-1, 4 * 36), lambda x: x.reshape(x.shape[0], -1)]
)
def test_a_flattened_channel_is_as_many_features(flatten):
    found = of(lambda m, x: m.head(flatten(m.conv(x))), head=nn.Linear(144, 2))
    name = next(name for name in ("flatten", "view", "reshape") if name in found.nodes)
    assert found.numbers(name) == [n for n in found.numbers("conv") for _ in range(36)]


def test_a_gate_has_the_channels_of_what_it_scales_unless_there_is_one_for_all():
    def excite(m, x):
        x = m.conv(x)
        return m.head(x * torch.sigmoid(m.gate(x.mean((2, 3), keepdim=True))))

    found = of(excite, gate=nn.Conv2d(4, 4, 1))
    assert found.numbers("gate") == found.numbers("conv")
    found = of(excite, gate=nn.Conv2d(4, 1, 1))
    assert len(set(found.numbers("conv"))) == 4
    assert found.numbers("mul") == found.numbers("conv")
    assert found.pinned("gate")


def test_positional_parameters_have_the_channels_of_what_they_are_added_to():
    model = Forward(lambda m, x: m.head(m.embed(x) + m.position), embed=nn.Linear(3, 5), head=nn.Linear(5, 2))
    model.position = nn.Parameter(torch.randn(1, 7, 5))
    found = Found(model, torch.zeros(1, 7, 3))
    assert found.numbers("position") == found.numbers("embed")
    assert len(set(found.numbers("embed"))) == 5


@pytest.mark.parametrize(
    "use",
    [
        lambda x: x * x.shape[1],
        lambda x: x * x.size(1) ** 0.5,
        lambda x: x[:, [1, 0, 3, 2]],
        lambda x: x[:, :3].repeat(1, 2, 1, 1)[:, :4],
        lambda x: x.narrow(1, 0, 4),
        lambda x: x.softmax(1),
        lambda x: torch.cat(x.chunk(2, 1), 1),
        lambda x: x.clamp(min=x.mean(1, keepdim=True)),
        lambda x: functional.prelu(x, x.mean((0, 2, 3))),
        lambda x: x.view(-1, 2, 2, 6, 6).transpose(1, 2).reshape(-1, 4, 6, 6),
        lambda x: torch.reshape(x, shape=(-1, 4, 6, 6)),
        lambda x: functional.max_pool2d(x.transpose(1, 3), 3, 1, 1).transpose(1, 3),
        lambda x: functional.pad(x, (0, 0, 0, 0, -1, 1)),
        lambda x: x.mean(1, keepdim=True).expand(-1, 4, -1, -1),
        lambda x: x - x.mean(),
        lambda x: torch.index_add(x, 2, torch.tensor([0]), x[:, :, :1]),
    ],
)
def test_channels_stay_where_a_step_needs_their_number_or_their_places(use):
    found = of(lambda m, x: m.head(use(m.conv(x))))
    assert found.pinned("conv")


@pytest.mark.parametrize(
    "use",
    [
        lambda x: x * x.shape[0] / x.size(2),
        lambda x: functional.interpolate(x, size=x.shape[-2:]),
        lambda x: x.view(x.shape),
        lambda x: x.view(x.size(0), x.size(1), -1).view(x.shape[0], -1, 6, 6),
        lambda x: x[:, :, ::2],
        lambda x: functional.pad(x, (1, 1, 1, 1), mode="reflect"),
        lambda x: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2).contiguous(),
        lambda x: x.detach().clone(),
        lambda x: x.flip(2),
    ],
)
def test_channels_are_free_where_a_step_needs_other_sizes_only(use):
    found = of(lambda m, x: m.head(use(m.conv(x))))
    assert len(set(found.numbers("conv"))) == 4
    assert not found.pinned("conv")


def test_pooling_over_features_is_not_taken_for_pooling_within_them():
    model = Forward(lambda m, x: m.b(functional.max_pool1d(m.a(x), 3, 1, 1)), a=nn.Linear(3, 5), b=nn.Linear(5, 2))
    assert Found(model, torch.zeros(1, 3)).pinned("a")


def test_an_empty_activation_has_no_channels():
    found = of(lambda m, x: m.head(m.conv(x)) + m.conv(x)[:, :0].sum())
    assert found.numbers("getitem") is None
