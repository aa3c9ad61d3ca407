"""Channels that are constant before a LayerNorm are folded into the linear layers after it, where that pays."""

import pytest
import torch
from torch import nn

from reflow_lightning.collapse import collapse, collapse_report
from reflow_lightning.collapse.passes import norms


class Normed(nn.Module):
    """A layer, a LayerNorm, and two linear layers that read it."""

    def __init__(self, norm, width=32, outputs=512):
        super().__init__()
        self.first, self.norm = nn.Linear(6, width), norm
        self.one, self.two = nn.Linear(width, outputs), nn.Linear(width, outputs, bias=False)

    def forward(self, x):
        normed = self.norm(self.first(x))
        return self.one(normed).relu() + self.two(normed)


def net(constant=20, norm=None, level=5.0, **options):
    """Some outputs of the first layer are constants about a level."""
    torch.manual_seed(0)
    model = Normed(nn.LayerNorm(32) if norm is None else norm, **options)
    with torch.no_grad():
        model.first.weight[:constant] = 0
        model.first.bias[:constant] = level + torch.randn(constant)
        for parameter in model.norm.parameters():
            parameter.uniform_(0.5, 2.0)
    return model.eval()


def rows(collapsed, what="norm"):
    return [row for row in collapse_report(collapsed).removed if row.what == what]


def same(found, expected):
    """Up to rounding."""
    return float((found - expected).detach().abs().max()) <= 1e-5 * float(expected.detach().abs().max())


X = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", [(5, 6), (5, 3, 6), (2, 3, 4, 6)])
@pytest.mark.parametrize("constant", [3, 20, 30])
def test_readers_lose_what_is_constant_and_get_two_numbers(constant, shape, monkeypatch):
    monkeypatch.setattr(norms, "_PRICE", 0)
    model, x = net(constant), torch.randn(shape)
    collapsed = collapse(model, x)
    (row,) = rows(collapsed)
    assert row.where == "norm"
    assert row.why == f"{constant} of 32 channels are constant before it"
    left = 32 - constant
    assert collapsed.get_submodule("first").out_features == left
    assert [collapsed.get_submodule(name).in_features for name in ("one", "two")] == [left + 2, left + 2]
    assert same(collapsed(x), model(x))
    assert same(collapsed(3 * x[:1]), model(3 * x[:1]))


@pytest.mark.parametrize("norm", [nn.LayerNorm(32, elementwise_affine=False), nn.LayerNorm(32, bias=False)], ids=str)
def test_norms_without_gain_or_shift(norm):
    model = net(norm=norm)
    collapsed = collapse(model, X)
    assert rows(collapsed)
    assert same(collapsed(X), model(X))


@pytest.mark.parametrize("level", [0.0, 1e3, -1e4])
def test_a_level_far_from_zero_costs_no_digits(level):
    model = net(level=level).double()
    collapsed = collapse(model, X.double())
    assert rows(collapsed)
    torch.testing.assert_close(collapsed(X.double()), model(X.double()), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_network_in_half_precision_computes_its_norm_in_float32(dtype):
    model = net().to(dtype)
    collapsed = collapse(model, X.to(dtype))
    assert rows(collapsed)
    found, expected = collapsed(X.to(dtype)), model(X.to(dtype))
    assert found.dtype == dtype
    assert float((found - expected).detach().abs().max()) < 0.03 * float(expected.detach().abs().max())


def test_it_is_left_where_it_would_take_longer():
    assert not rows(collapse(net(outputs=64), X))
    assert not rows(collapse(net(constant=5), X))


def test_a_norm_that_something_else_reads_too_stays():
    class Also(Normed):
        def forward(self, x):
            normed = self.norm(self.first(x))
            return self.one(normed) + normed.sum(-1, keepdim=True)

    model = net()
    model.__class__ = Also
    collapsed = collapse(model, X)
    assert not rows(collapsed)
    assert same(collapsed(X), model(X))
    assert any(row.where == "norm" for row in collapse_report(collapsed).left)


def test_a_norm_over_several_dimensions_stays():
    model = nn.Sequential(nn.Linear(6, 32), nn.LayerNorm((3, 32)), nn.Linear(32, 512)).eval()
    with torch.no_grad():
        model[0].weight[:20] = 0
    collapsed = collapse(model, torch.randn(2, 3, 6))
    assert not rows(collapsed)


@pytest.mark.parametrize("constant", [31, 32])
def test_hardly_anything_varies_or_nothing(constant):
    model = net(constant)
    assert same(collapse(model, X)(X), model(X))


def test_one_channel_that_varies_stays_alone():
    collapsed = collapse(net(31), X)
    assert collapsed.get_submodule("first").out_features == 1
    assert not [row for row in collapse_report(collapsed).left if row.what == "channels"]


def test_equal_constants_and_a_tiny_epsilon_fit_into_half_precision():
    """The inverse of the deviation alone would be a million, more than float16 can hold."""
    model = net(28, nn.LayerNorm(32, eps=1e-12), level=0.0)
    with torch.no_grad():
        model.first.bias.zero_()
    model = model.half()
    collapsed, nothing = collapse(model, X.half()), torch.zeros(2, 6).half()
    assert rows(collapsed)
    torch.testing.assert_close(collapsed(nothing), model(nothing), rtol=0.02, atol=0.02)


def test_a_network_can_be_cast_after_it_was_collapsed():
    model = net().double()
    with torch.no_grad():
        model.first.weight.mul_(300)  # whose squares float16 can't hold
    collapsed = collapse(model, X.double())
    assert rows(collapsed)
    found, expected = collapsed.half()(X.half()), model.half()(X.half())
    assert float((found - expected).detach().abs().max()) < 0.03 * float(expected.detach().abs().max())


class TwoNorms(nn.Module):
    """Two networks beside each other; the signal of the second is lost in rounding, beside a large level."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([net(), net()])
        with torch.no_grad():
            self.parts[1].first.bias.add_(1e6)

    def forward(self, x):
        return tuple(part(x) for part in self.parts)


def test_a_norm_that_can_not_be_folded_leaves_the_others_to_be_folded():
    collapsed = collapse(TwoNorms().eval(), X)
    assert [row.where for row in rows(collapsed)] == ["parts.0.norm"]
    assert any("parts.1.norm" in row.where for row in collapse_report(collapsed).left if row.what == "norm")


def test_it_survives_a_file_and_another_collapse(tmp_path):
    model = net()
    collapsed = collapse(model, X)
    torch.save(collapsed, tmp_path / "collapsed.pt")
    again = collapse(torch.load(tmp_path / "collapsed.pt", weights_only=False), X)
    assert same(again(X), model(X))


class Residual(nn.Module):
    """A block that adds constants in some channels to a stream with constants, and a norm behind it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.norm = nn.Linear(6, 32), nn.LayerNorm(32)
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)
        self.last, self.head = nn.LayerNorm(32), nn.Linear(32, 10)
        with torch.no_grad():
            self.embed.weight[:20] = 0
            self.down.weight[:15] = 0
            for norm in (self.norm, self.last):
                norm.weight.uniform_(0.5, 2.0)

    def forward(self, x):
        x = self.embed(x)
        x = x + self.down(nn.functional.gelu(self.up(self.norm(x))))
        return self.head(self.last(x))


@pytest.mark.parametrize("shape", [(4, 6), (4, 5, 6)])
def test_a_residual_stream_gets_narrower(shape, monkeypatch):
    monkeypatch.setattr(norms, "_PRICE", 0)
    model, x = Residual().eval(), torch.randn(shape)
    collapsed = collapse(model, x)
    assert [row.where for row in rows(collapsed)] == ["norm", "last"]
    sizes = {name: collapsed.get_submodule(name).weight.shape for name in ("embed", "up", "down", "head")}
    assert sizes == {"embed": (12, 6), "up": (64, 14), "down": (17, 64), "head": (10, 19)}
    assert same(collapsed(x), model(x))
    assert not [row for row in collapse_report(collapsed).left if row.what == "error"]
