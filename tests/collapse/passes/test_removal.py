import pytest
import torch
from scenarios.wrecked import same, widths
from torch import nn
from torch.nn import functional
from zoo.odd import Forward
from zoo.residual import Residual

from reflow_lightning.collapse.facts.analysis import Analysis
from reflow_lightning.collapse.graph.tracing import trace
from reflow_lightning.collapse.passes.removal import find_removal
from reflow_lightning.collapse.passes.rewriting import remove_channels

IMAGES = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
VECTOR = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


def removed(model, given, only=None):
    """The network after one removal, which does the same."""
    analysis = Analysis(trace(model.eval()), [(given,)])
    removal = find_removal(analysis.steps, analysis.channels, analysis.bounds, only)
    remove_channels(analysis.steps, analysis.channels, analysis.bounds, removal)
    assert same(model, analysis.traced, (torch.cat([given * 2, given]),)) < 1e-6
    return analysis.traced


@torch.no_grad()
def kill(layer, rows, bias=0.0):
    """Let these channels put out a constant."""
    layer.weight[list(rows)] = 0
    if layer.bias is not None:
        layer.bias[list(rows)] = bias


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))


def test_dead_units_go_with_the_columns_that_read_them():
    model = mlp()
    kill(model[0], [1, 4, 5])
    after = removed(model, VECTOR)
    assert [tuple(p.shape) for p in after.parameters() if p.ndim > 1] == [(5, 4), (6, 5), (3, 6)]


def test_what_constants_contribute_moves_into_the_next_bias():
    model = mlp()
    kill(model[0], [1, 4], bias=2.0)
    after = removed(model, VECTOR)
    expected = model[2].bias + 2.0 * model[2].weight[:, [1, 4]].sum(1)
    torch.testing.assert_close(after.get_submodule("2").bias, expected.detach())


def test_units_that_nobody_reads_go_and_then_those_that_only_these_read():
    model = mlp()
    with torch.no_grad():
        model[4].weight[:, 2:] = 0
        model[2].weight[:2, 3:] = 0
    assert widths(removed(model, VECTOR)) == {"0": 3, "2": 2, "4": 3}


def test_one_channel_of_a_dead_layer_stays():
    model = mlp()
    kill(model[2], range(6), bias=1.0)
    assert widths(removed(model, VECTOR)) == {"0": 1, "2": 1, "4": 3}


def test_inputs_and_outputs_stay():
    model = mlp()
    kill(model[4], [0, 1])
    with torch.no_grad():
        model[0].weight[:, 2:] = 0
    after = removed(model, VECTOR)
    assert (after.get_submodule("0").in_features, after.get_submodule("4").out_features) == (4, 3)


def test_removal_can_be_limited_to_one_layer():
    model = mlp()
    kill(model[0], [1])
    kill(model[2], [1, 2])
    assert widths(removed(model, VECTOR, only="0")) == {"0": 7, "2": 6, "4": 3}


def pair(padding, mode="zeros", **options):
    torch.manual_seed(0)
    second = nn.Conv2d(8, 4, 3, padding=padding, padding_mode=mode, **options)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), second, nn.AdaptiveAvgPool2d(1))


@pytest.mark.parametrize("padding", [0, 1, "same", "valid", (0, 1)])
@pytest.mark.parametrize("mode", ["zeros", "reflect", "circular", "replicate"])
def test_zeros_go_before_every_convolution(padding, mode):
    model = pair(padding, mode)
    kill(model[0], [0, 3, 7], bias=-1.0)
    assert widths(removed(model, IMAGES)) == {"0": 5, "2": 4}


@pytest.mark.parametrize(
    ("padding", "mode", "left"),
    [
        (0, "zeros", 5),
        ("valid", "zeros", 5),
        (1, "reflect", 5),
        ("same", "circular", 5),
        (1, "zeros", 6),
        ("same", "zeros", 6),
    ],
)
def test_of_other_constants_one_stays_before_a_border_of_zeros_and_carries_the_rest(padding, mode, left):
    model = pair(padding, mode)
    kill(model[0], [0, 3, 7], bias=torch.tensor([1.0, 3.0, 2.0]))
    assert widths(removed(model, IMAGES)) == {"0": left, "2": 4}


def test_a_lonely_constant_stays_before_a_border_of_zeros():
    model = pair(1)
    kill(model[0], [3], bias=1.0)
    assert widths(removed(model, IMAGES)) == {"0": 8, "2": 4}


def residual(shortcut="identity", out=4):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Residual(4, out, shortcut), nn.Conv2d(out, 2, 1)).eval()
    model[1].bn1, model[1].bn2 = nn.Identity(), nn.Identity()
    if shortcut == "projection":
        model[1].down[1] = nn.Identity()
    return model


def test_channels_of_a_sum_go_if_they_are_dead_in_both_operands():
    model = residual()
    kill(model[0], [1, 2])
    kill(model[1].conv2, [1, 2])
    assert widths(removed(model, IMAGES)) == {"0": 2, "1.conv1": 6, "1.conv2": 2, "2": 2}


def test_channels_of_a_sum_stay_if_they_live_in_one_operand_and_few_are_dead_in_the_other():
    model = residual("projection", 8)
    kill(model[1].conv2, [1])
    assert widths(removed(model, IMAGES))["1.conv2"] == 8


@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_if_many_are_dead_in_one_operand_only_the_others_are_added(shift):
    model = residual("projection", 8)
    model[1].conv2.bias = nn.Parameter(torch.zeros(8))
    kill(model[1].conv2, range(5), bias=shift)
    after = removed(model, IMAGES)
    assert widths(after) == {"0": 4, "1.conv1": 6, "1.conv2": 3, "1.down.0": 8, "2": 2}
    with torch.no_grad():
        model[2].weight[:, :2] = 0
    assert widths(removed(model, IMAGES))["1.down.0"] == 6


def test_a_sum_that_was_taken_apart_loses_channels_later_on():
    model = residual("projection", 8)
    kill(model[1].conv2, range(5))
    after = removed(model, IMAGES)
    with torch.no_grad():
        after.get_submodule("2").weight[:, 4:7] = 0
    assert widths(removed(after, IMAGES)) == {"0": 4, "1.conv1": 6, "1.conv2": 1, "1.down.0": 5, "2": 2}


def test_a_sum_that_was_taken_apart_keeps_what_its_operand_needs_elsewhere():
    def run(m, x):
        part = m.part(x)
        return m.head((m.lead(x) + part).relu()) + m.other(part)

    torch.manual_seed(0)
    layers = {"part": nn.Linear(4, 8), "lead": nn.Linear(4, 8), "head": nn.Linear(8, 2), "other": nn.Linear(8, 2)}
    model = Forward(run, **layers)
    kill(model.part, range(4))
    with torch.no_grad():
        model.head.weight[:, 6:] = 0
    assert widths(removed(model, VECTOR)) == {"part": 4, "lead": 8, "head": 2, "other": 2}


def test_zero_padded_shortcuts_lose_dead_channels_of_both_kinds():
    model = residual("zeros", 6)
    kill(model[0], [3])
    kill(model[1].conv2, [3, 5])
    assert widths(removed(model, IMAGES)) == {"0": 3, "1.conv1": 6, "1.conv2": 4, "2": 2}


def test_depthwise_channels_go_with_those_before_and_after():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.Conv2d(6, 12, 3, groups=6, padding=1), nn.BatchNorm2d(12), nn.Conv2d(12, 2, 1)
    )
    kill(model[1], [0, 1, 2])
    after = removed(model, IMAGES)
    assert widths(after) == {"0": 5, "1": 10, "3": 2}
    assert after.get_submodule("1").groups == 5
    assert after.get_submodule("2").num_features == 10


def test_grouped_channels_go_by_whole_groups():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 9, 3, groups=3), nn.Conv2d(9, 2, 1))
    kill(model[1], [0, 1, 3, 4, 5])
    after = removed(model, IMAGES)
    assert widths(after) == {"0": 4, "1": 6, "2": 2}
    assert after.get_submodule("1").groups == 2


def test_channels_go_through_concatenation_pooling_and_flattening():
    def run(m, x):
        x = torch.cat([m.a(x), m.b(x), x], 1)
        return m.head(functional.max_pool2d(m.prelu(m.bn(x)), 2).flatten(1))

    torch.manual_seed(0)
    norms = {"bn": nn.BatchNorm2d(9), "prelu": nn.PReLU(9)}
    model = Forward(run, a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(3, 2, 1), head=nn.Linear(81, 2), **norms)
    kill(model.a, [0, 2], bias=1.0)
    kill(model.b, [1])
    after = removed(model, IMAGES)
    assert widths(after) == {"a": 2, "b": 1, "head": 2}
    assert after.get_submodule("head").in_features == 6 * 9
    assert after.get_submodule("prelu").num_parameters == after.get_submodule("bn").num_features == 6


def test_literal_sizes_are_corrected():
    def run(m, x):
        return m.head(m.conv(x).view(2, 8, 36).transpose(1, 2).reshape((2, 36, 8)).mean(1).expand(2, 8))

    torch.manual_seed(0)
    model = Forward(run, conv=nn.Conv2d(3, 8, 1), head=nn.Linear(8, 2))
    kill(model.conv, [0, 7])
    analysis = Analysis(trace(model), [(IMAGES,)])
    remove_channels(
        analysis.steps,
        analysis.channels,
        analysis.bounds,
        find_removal(analysis.steps, analysis.channels, analysis.bounds),
    )
    assert widths(analysis.traced) == {"conv": 6, "head": 2}
    assert same(model, analysis.traced, (IMAGES,)) < 1e-6


def test_positional_parameters_lose_the_same_channels():
    torch.manual_seed(0)
    model = Forward(lambda m, x: m.head((m.embed(x) + m.position).relu()), embed=nn.Linear(4, 6), head=nn.Linear(6, 2))
    model.position = nn.Parameter(torch.randn(1, 3, 6))
    with torch.no_grad():
        model.head.weight[:, [0, 5]] = 0
    after = removed(model, torch.randn(2, 3, 4))
    assert after.position.shape == (1, 3, 4)
    assert widths(after) == {"embed": 4, "head": 2}


def test_a_tokens_mixer_loses_units_in_both_directions():
    def run(m, x):
        x = m.tokens(x.transpose(1, 2)).transpose(1, 2)
        return m.head(m.features(x))

    torch.manual_seed(0)
    model = Forward(run, tokens=nn.Linear(5, 6), features=nn.Linear(4, 7), head=nn.Linear(7, 2))
    kill(model.features, [0, 1, 2])
    assert widths(removed(model, torch.randn(2, 5, 4))) == {"tokens": 6, "features": 4, "head": 2}
