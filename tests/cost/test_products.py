"""Multiply-adds of operators are those of a loop over every output, whatever the sizes."""

import warnings
from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from reflow_lightning.cost.cost import measure_cost
from reflow_lightning.cost.products import is_unknown

sizes = st.integers(1, 5)


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def counted(function, *shapes):
    return measure_cost(Calls(function), tuple(torch.randn(shape) for shape in shapes)).multiply_adds


def contract(x, y):
    return torch.einsum("bnk,bkm->bnm", x, y)


@given(st.lists(sizes, min_size=4, max_size=4))
@settings(deadline=None, max_examples=30)
def test_matrix_products(dims):
    b, n, k, m = dims
    assert counted(torch.mm, (n, k), (k, m)) == n * k * m
    assert counted(torch.bmm, (b, n, k), (b, k, m)) == b * n * k * m
    assert counted(torch.addmm, (n, m), (n, k), (k, m)) == n * k * m
    assert counted(torch.baddbmm, (b, n, m), (b, n, k), (b, k, m)) == b * n * k * m
    assert counted(torch.addbmm, (n, m), (b, n, k), (b, k, m)) == b * n * k * m
    assert counted(torch.mv, (n, k), (k,)) == n * k
    assert counted(torch.addmv, (n,), (n, k), (k,)) == n * k
    assert counted(torch.dot, (k,), (k,)) == k
    assert counted(torch.matmul, (b, n, k), (k, m)) == b * n * k * m
    assert counted(contract, (b, n, k + 1), (b, k + 1, m)) == b * n * (k + 1) * m  # over one value it only scales
    assert counted(functional.linear, (b, n, k), (m, k), (m,)) == b * n * k * m
    assert counted(functional.bilinear, (b, n), (b, k), (m, n, k)) == b * n * k * m


@given(st.lists(sizes, min_size=5, max_size=5), st.integers(1, 2), st.integers(1, 2), st.booleans())
@settings(deadline=None, max_examples=30)
def test_convolutions(dims, groups, stride, transposed):
    inputs, outputs, width, size, samples = dims
    kind = nn.ConvTranspose1d if transposed else nn.Conv1d
    layer = kind(inputs * groups, outputs * groups, size, stride=stride, groups=groups)
    x = torch.randn(samples, inputs * groups, width + size)
    positions = (x if transposed else layer(x)).shape[2]
    assert measure_cost(layer, x).multiply_adds == samples * positions * size * inputs * outputs * groups


@given(st.lists(sizes, min_size=6, max_size=6), st.booleans())
@settings(deadline=None, max_examples=30)
def test_attention(dims, causal):
    samples, heads, shared, queries, keys, width = dims
    shapes = ((samples, heads * shared, queries, width), *[(samples, heads, keys, width)] * 2)
    every = samples * heads * shared * queries * keys * 2 * width

    def attend(q, k, v):
        return functional.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)

    assert counted(attend, *shapes) == every


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "swin_t"])
def test_as_many_as_fvcore_counts(name):
    from fvcore.nn import FlopCountAnalysis
    from torchvision import models

    model, x = getattr(models, name)().eval(), torch.zeros(1, 3, 64, 64)
    analysis = FlopCountAnalysis(model, x).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    theirs = analysis.by_operator()
    assert measure_cost(model, x).multiply_adds == sum(theirs[kind] for kind in ("conv", "linear", "matmul"))


def test_vit_tiny_with_its_products_of_queries_keys_and_values():
    timm = pytest.importorskip("timm")
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False)
    steps, width = 197, 192
    layer = steps * width * (3 * width + width + 2 * 4 * width) + 2 * steps * steps * width
    by_hand = 12 * layer + 196 * 768 * width + width * 1000
    assert measure_cost(model, torch.zeros(1, 3, 224, 224)).multiply_adds == by_hand == 1_253_683_200


@torch.library.custom_op("test_products::projected", mutates_args=())
def projected(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x @ weight


class Projected(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3))

    def forward(self, x):
        return projected(torch.fft.rfft(x).abs(), self.weight)


def test_what_is_not_counted_is_named_and_told():
    model, x = Projected(), torch.randn(2, 6)
    with pytest.warns(UserWarning, match=r"multiply-adds of aten._fft_r2c, test_products.projected are not") as told:
        cost = measure_cost(model, x)
    assert (cost.multiply_adds, cost.uncounted) == (0, ("aten._fft_r2c", "test_products.projected"))
    assert len(told) == 1
    assert told[0].filename == __file__


def test_an_own_formula_counts():
    from torch.utils.flop_counter import flop_registry, register_flop_formula

    operator = torch.ops.test_products.projected
    register_flop_formula(operator)(lambda x, weight, **_: 2 * prod(x) * weight[1])
    try:
        with warnings.catch_warnings(record=True):
            cost = measure_cost(Projected(), torch.randn(2, 6))
    finally:
        del flop_registry[operator]
    assert (cost.multiply_adds, cost.uncounted) == (2 * 4 * 3, ("aten._fft_r2c",))
    assert [(layer.name, layer.multiply_adds) for layer in cost.layers] == [("", 24)]


def test_torch_s_usual_operators_hold_no_products_that_are_not_known():
    harmless = ("relu", "add", "softmax", "native_batch_norm", "native_layer_norm", "max_pool2d", "embedding", "cat")
    harmless += ("linalg_vector_norm", "upsample_linear1d", "lgamma", "_thnn_fused_lstm_cell", "_weight_norm")
    assert not any(is_unknown(getattr(torch.ops.aten, name)) for name in harmless)
    products = ("_cdist_forward", "_linalg_svd", "linalg_inv_ex", "_fft_c2c", "_weight_int8pack_mm", "mkldnn_rnn_layer")
    assert all(is_unknown(getattr(torch.ops.aten, name)) for name in products)
