import itertools

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scenarios.wrecked import same
from torch import nn
from zoo.odd import Forward

from reflow_lightning.collapse.facts.analysis import Analysis
from reflow_lightning.collapse.graph.tracing import trace
from reflow_lightning.collapse.passes.merging import fold_batchnorm, merge, merge_layers

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def difference(one, two, merged, given):
    with torch.no_grad():
        expected = two(one(given))
        return ((merged(given) - expected).abs().max() / expected.abs().max().clamp(min=1e-30)).item()


@st.composite
def convolutions(draw):
    """Two convolutions of 1 to 3 dimensions that fit each other."""
    kind, ndim = draw(st.sampled_from(sorted(CONVOLUTIONS))), draw(st.integers(1, 2))
    sizes, steps = st.integers(1, 3), st.integers(1, 2)
    groups, groups2 = draw(st.sampled_from([1, 1, 2, 4])), draw(st.sampled_from([1, 1, 2, 4]))
    pads, biases = st.integers(0, ndim), st.booleans()

    def options(own):
        return {
            "stride": tuple(draw(steps) for _ in range(kind)),
            "padding": tuple(draw(pads) for _ in range(kind)),
            "dilation": tuple(draw(steps) for _ in range(kind)),
            "groups": own,
            "bias": draw(biases),
        }

    torch.manual_seed(draw(st.integers(0, 99)))
    one = CONVOLUTIONS[kind](4, 4, tuple(draw(sizes) for _ in range(kind)), **options(groups))
    two = CONVOLUTIONS[kind](4, 8, tuple(draw(sizes) for _ in range(kind)), **options(groups2))
    return one.double(), two.double()


@settings(deadline=None, max_examples=150)
@given(pair=convolutions(), size=st.integers(8, 11))
def test_one_convolution_does_what_two_do_border_included_or_is_refused(pair, size):
    one, two = pair
    image = torch.randn(2, 4, *[size] * (one.weight.ndim - 2)).double()
    try:
        two(one(image))
    except RuntimeError:
        assume(False)
    merged = merge(one, two)
    if isinstance(merged, str):
        assert any(two.padding)
        assert set(one.kernel_size) != {1} or any(one.padding) or one.bias is not None
    else:
        assert difference(one, two, merged, image) < 1e-12


@pytest.mark.parametrize("biases", list(itertools.product([True, False], repeat=2)))
def test_one_linear_layer_does_what_two_do(biases):
    one, two = nn.Linear(4, 5, bias=biases[0]).double(), nn.Linear(5, 3, bias=biases[1]).double()
    merged = merge(one, two)
    assert difference(one, two, merged, torch.randn(2, 7, 4).double()) < 1e-12
    assert (merged.bias is not None) == any(biases)


def test_a_3x3_and_an_unpadded_3x3_become_a_5x5_and_never_a_cropped_3x3():
    merged = merge(nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3))
    assert (merged.kernel_size, merged.padding) == ((5, 5), (1, 1))


@pytest.mark.parametrize(
    ("one", "two", "why"),
    [
        (nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1), "zero padding between them"),
        (nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 3, padding=1), "zero padding between them"),
        (nn.Conv2d(2, 2, 3, padding="same"), nn.Conv2d(2, 2, 1), "padding given by name"),
        (nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), nn.Conv2d(2, 2, 1), "padding that is not with zeros"),
    ],
)
def test_what_is_not_the_same_at_the_border_is_refused(one, two, why):
    assert merge(one, two) == why


def test_a_1x1_without_bias_and_a_padded_3x3_become_a_padded_3x3():
    merged = merge(nn.Conv2d(2, 2, 1, bias=False), nn.Conv2d(2, 2, 3, padding=1))
    assert (merged.kernel_size, merged.padding) == ((3, 3), (1, 1))


def merged_once(model, inputs):
    analysis = Analysis(trace(model), [(inputs,)])
    done, left = merge_layers(analysis.steps, analysis.values)
    assert same(model, analysis.traced, (inputs,)) < 1e-6
    return done, left, analysis.traced


def test_a_depthwise_and_a_pointwise_convolution_are_merged_if_that_is_cheaper():
    image = torch.randn(1, 8, 6, 6)
    done, _, after = merged_once(nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 1, 1)), image)
    assert [row.where for row in done] == ["0 and 1"]
    assert [tuple(p.shape) for p in after.parameters()] == [(1, 8, 3, 3), (1,)]
    done, left, _ = merged_once(nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1)), image)
    assert done == []
    assert left[0].why == "one layer would need 4.24 times the multiply-adds"


def test_fewer_multiply_adds_are_not_bought_with_more_parameters():
    model = nn.Sequential(nn.Conv2d(8, 2, 3), nn.Conv2d(2, 8, 3, stride=4))
    done, left, _ = merged_once(model, torch.randn(1, 8, 20, 20))
    assert done == []
    assert left[0].why.endswith("times the parameters")


def test_layers_that_others_read_too_or_that_follow_a_rectifier_are_not_merged():
    vector = torch.randn(2, 4)
    layers = {"a": nn.Linear(4, 4), "b": nn.Linear(4, 2), "c": nn.Linear(4, 2)}
    assert merged_once(Forward(lambda m, x: m.b(h := m.a(x)) + m.c(h), **layers), vector)[0] == []
    assert merged_once(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), vector)[0] == []
    assert merged_once(Forward(lambda m, x: m.b(m.a(x)), **layers), vector)[0] != []


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)), (2, 3, 5, 5)),
        (nn.Sequential(nn.Conv1d(4, 4, 1, groups=2), nn.BatchNorm1d(4, affine=False)), (2, 4, 5)),
        (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, eps=0.1)), (2, 3)),
    ],
)
def test_batchnorm_is_folded_into_the_layer_before(model, shape):
    model[1].running_mean.normal_()
    model[1].running_var.uniform_(0.1, 2)
    inputs = torch.randn(shape)
    analysis = Analysis(trace(model), [(inputs,)])
    assert [row.where for row in fold_batchnorm(analysis.steps, analysis.values)] == ["1"]
    assert [name for name, _ in analysis.traced.named_children()] == ["0"]
    assert same(model.eval(), analysis.traced, (inputs,)) < 1e-6


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(5)), (2, 5, 3)),
        (
            Forward(lambda m, x: m.norm(h := m.conv(x)) + h, conv=nn.Conv2d(3, 4, 1), norm=nn.BatchNorm2d(4)),
            (2, 3, 5, 5),
        ),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)), (2, 3, 5, 5)),
    ],
)
def test_batchnorm_stays_after_anything_else(model, shape):
    analysis = Analysis(trace(model), [(torch.randn(shape),)])
    assert fold_batchnorm(analysis.steps, analysis.values) == []
