"""Networks that can't be traced as a whole: their parts are collapsed in place, and the rest is left and named."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenarios.wrecked import build, chain, inputs_for, multiply_adds, parameters, same, wreck
from torch import nn
from zoo import networks
from zoo.blocks import BLOCKS, IMAGES

from reflow_lightning.collapse import collapse, collapse_report
from reflow_lightning.collapse.edits import Row

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


class Wrapper(nn.Module):
    """Calls a network if there are no infinite inputs, which no graph can tell."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *inputs):
        return self.inner(*inputs) if inputs[0].isfinite().all() else inputs[0]


class Parent(nn.Module):
    """Runs its layers by a function that no graph can show."""

    def __init__(self, run, **layers):
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x):
        return self.run(self, x) if x.isfinite().all() else x


def block(width=8, outputs=4, inputs=4):
    """Five of eight channels are constant, and not zero."""
    layers = nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, outputs))
    with torch.no_grad():
        layers[0].weight[: width - 3] = 0
    return layers


def why_left(collapsed, where):
    return [row.why for row in collapse_report(collapsed).left if row.where == where]


@pytest.mark.parametrize("pruning", ["rows", "layers"])
@pytest.mark.parametrize("name", networks("collapse"))
def test_a_network_in_a_wrapper_gets_as_small_as_it_does_alone(name, pruning):
    model, inputs = wreck(build(name), pruning), inputs_for(name)
    alone, wrapped = collapse(model, inputs), collapse(Wrapper(model), inputs)
    assert isinstance(wrapped, Wrapper)
    assert same(Wrapper(model), wrapped, inputs_for(name, samples=5, seed=7)) < 1e-5
    assert multiply_adds(wrapped, inputs) == multiply_adds(alone, inputs)
    assert "control flow" in why_left(wrapped, "the whole network")[0]


@settings(deadline=None, max_examples=8)
@given(
    kinds=st.lists(st.sampled_from(sorted(BLOCKS)), min_size=1, max_size=3),
    flat=st.booleans(),
    pruning=st.sampled_from(["rows", "weights", "layers"]),
    seed=st.integers(0, 10**6),
)
def test_random_networks_in_a_wrapper_do_the_same(kinds, flat, pruning, seed):
    model, inputs = Wrapper(chain(kinds, flat, pruning, seed)), (torch.randn(2, *IMAGES),)
    assert same(model, collapse(model, inputs), (torch.randn(5, *IMAGES) * 3,)) < 1e-5


def test_a_part_that_only_loses_channels_keeps_its_class_and_all_names():
    torch.manual_seed(0)
    model = Wrapper(nn.Sequential(block(), nn.Tanh(), nn.Dropout(), block())).eval()
    collapsed = collapse(model, X)
    assert same(model, collapsed, (torch.randn(9, 4),)) < 1e-5
    assert [type(m) for m in collapsed.modules()] == [type(m) for m in model.modules()]
    assert collapsed.state_dict().keys() == model.state_dict().keys()
    assert collapsed.inner[0][0].out_features == collapsed.inner[3][2].in_features == 3
    assert collapse_report(collapsed).removed == tuple(
        Row("channels", f"inner.{i}.0", "5 of 8 were constant, or read by nobody") for i in (0, 3)
    )


def test_a_part_whose_steps_change_becomes_a_graph():
    torch.manual_seed(0)
    model = Wrapper(nn.Sequential(nn.Linear(4, 4), Shortcut()))
    with torch.no_grad():
        model.inner[1].b.weight.zero_()
    collapsed = collapse(model, X)
    assert same(model, collapsed, (torch.randn(9, 4),)) < 1e-5
    assert sum(isinstance(m, nn.Linear) for m in collapsed.modules()) == 1
    assert Row("module", "inner", "replaced by a graph of its layers, which keep their names") in (
        collapse_report(collapsed).removed
    )


class Shortcut(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 4)

    def forward(self, x):
        return self.b(self.a(x).relu()) + x


class Residual(nn.Module):
    """Adds a block to its input; what is read after that is not looked into."""

    def __init__(self):
        super().__init__()
        self.norm, self.block, self.width = nn.LayerNorm(8), block(inputs=8, outputs=8), 8
        with torch.no_grad():
            self.block[2].weight[:6] = 0

    def forward(self, x):
        return x + self.block(self.norm(x))


def stream(run):
    torch.manual_seed(0)
    return Parent(run, embed=nn.Linear(4, 8), one=Residual(), two=Residual(), head=nn.Linear(8, 2))


def test_what_adds_constants_to_a_residual_stream_writes_only_the_other_channels():
    model = stream(lambda m, x: m.head(m.two(m.one(m.embed(x)))))
    collapsed = collapse(model, X)
    assert same(model, collapsed, (torch.randn(9, 4),)) < 1e-5
    widths = {name: m.out_features for name, m in collapsed.named_modules() if isinstance(m, nn.Linear)}
    assert widths == {"embed": 8, "head": 2, "one.block.0": 3, "one.block.2": 2, "two.block.0": 3, "two.block.2": 2}


def test_where_no_graph_can_take_the_place_of_a_part_its_layers_still_lose_channels():
    model = stream(lambda m, x: m.head(m.two(m.one(m.embed(x)))) * m.one.width)
    collapsed = collapse(model, X)
    assert same(model, collapsed, (torch.randn(9, 4),)) < 1e-5
    widths = {name: m.out_features for name, m in collapsed.named_modules() if isinstance(m, nn.Linear)}
    assert widths == {"embed": 8, "head": 2, "one.block.0": 3, "one.block.2": 8, "two.block.0": 3, "two.block.2": 2}
    assert isinstance(collapsed.one, Residual)


class Constants(nn.Module):
    """Makes a tensor in its forward pass, which only its graph holds."""

    def __init__(self):
        super().__init__()
        self.block = block()

    def forward(self, x):
        return self.block(x * torch.tensor([1.0, 2.0, 3.0, 4.0]))


@pytest.mark.parametrize(
    "make",
    [
        Constants,
        lambda: nn.Sequential(block(), torch.jit.script(nn.Linear(4, 4)), block()),
        lambda: nn.Sequential(torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.ReLU())), block()),
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), block()),
        lambda: nn.ModuleDict({"a": nn.ModuleList([block()])})["a"][0],
    ],
    ids=["a constant", "a scripted layer", "a scripted part", "a parametrized layer", "containers"],
)
def test_odd_parts_are_no_hindrance(make):
    torch.manual_seed(0)
    model = Wrapper(make())
    collapsed = collapse(model, X)
    assert same(model, collapsed, (torch.randn(9, 4),)) < 1e-5
    assert [m.out_features for m in collapsed.modules() if type(m) is nn.Linear].count(3) >= 1


def test_the_parts_within_an_untraceable_part_of_a_graph_are_collapsed_too():
    torch.manual_seed(0)
    model = nn.Sequential(block(), Wrapper(block()), block())
    collapsed = collapse(model, X)
    assert isinstance(collapsed, torch.fx.GraphModule)
    assert parameters(collapsed) == 3 * parameters(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 4)))
    assert same(model, collapsed, (torch.randn(9, 4),)) < 1e-5
    assert "control flow" in why_left(collapsed, "1")[-1]


def test_a_part_that_is_called_with_several_shapes_stays_exact():
    torch.manual_seed(0)
    model = Parent(lambda m, x: m.part(x) + m.part(x[:2, None].expand(2, 3, 4)).sum((0, 1)), part=block())
    collapsed = collapse(model, X)
    assert collapsed.part[0].out_features == 3
    assert same(model, collapsed, (torch.randn(9, 4),)) < 1e-5


def test_a_part_that_is_called_with_other_arguments_from_call_to_call_is_left():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = block()

        def forward(self, x, scale=1.0):
            return self.block(x) * scale

    model = Parent(lambda m, x: m.part(x) + m.part(x, scale=2.0), part=Scaled())
    collapsed = collapse(model, X)
    assert same(model, collapsed, (torch.randn(9, 4),)) < 1e-5
    assert "other arguments from call to call" in why_left(collapsed, "part")[0]
    assert collapsed.part.block[0].out_features == 3


def test_a_part_that_two_parents_share_is_changed_in_both():
    torch.manual_seed(0)
    part = block()
    model = Parent(lambda m, x: m.first(x) + m.second(2 * x), first=Wrapper(part), second=Wrapper(part))
    collapsed = collapse(model, X)
    assert collapsed.first.inner is collapsed.second.inner
    assert collapsed.first.inner[0].out_features == 3
    assert same(model, collapsed, (torch.randn(9, 4),)) < 1e-5


def test_layers_whose_weights_are_tied_to_others_stay_tied():
    torch.manual_seed(0)
    part, free, outside = block(), block(), nn.Linear(4, 8)
    outside.weight = part[0].weight
    model = Parent(
        lambda m, x: m.part(x) + m.free(x) + m.outside(x).sum(1, True), part=part, free=free, outside=outside
    )
    collapsed = collapse(model, X)
    assert collapsed.part[0].weight is collapsed.outside.weight
    assert collapsed.free[0].out_features == 3
    assert same(model, collapsed, (torch.randn(9, 4),)) < 1e-5
    assert "0.weight is a parameter of outside too" in " ".join(why_left(collapsed, "part"))


@pytest.mark.parametrize(
    "run",
    [
        lambda m, x: m.part(x) + m.part[0].weight.sum(1)[:4] + m.part[0].bias.sum(),
        lambda m, x: m.part(x) + m.part[0](x)[:, :4],
        lambda m, x: m.part(x) * m.part[0].out_features,
        lambda m, x: m.part(x) if isinstance(m.part[1], nn.GELU) and len(m.part[0].bias) == 8 else 2 * x,
    ],
    ids=["a parameter is read", "a layer is called", "a size is read", "a class is asked for"],
)
def test_a_part_whose_inside_the_parent_uses_is_put_back(run):
    torch.manual_seed(0)
    model = Parent(run, part=block(), other=block())
    model.run = lambda m, x: m.other(run(m, x))
    collapsed = collapse(model, X)
    assert same(model, collapsed, (torch.randn(9, 4),)) < 1e-5
    assert collapsed.part[0].out_features == 8
    assert collapsed.other[0].out_features == 3
    assert any("not changed as a whole" in why for why in why_left(collapsed, "part"))


def test_layers_that_the_parent_calls_one_by_one_are_left_and_named():
    model = Parent(lambda m, x: m.part[2](m.part[0](x).relu()), part=block())
    collapsed = collapse(model, X)
    assert same(model, collapsed, (X,)) == 0
    assert why_left(collapsed, "part") == ["never called: its parent calls its layers one by one, or none"]


def test_real_data_tell_in_parts_too_which_rectifiers_are_always_on():
    torch.manual_seed(0)
    model = Wrapper(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)))
    with torch.no_grad():
        model.inner[0].bias.fill_(100)
    collapsed = collapse(model, X, batches=[(X, 0)])
    assert [type(layer).__name__ for layer in collapsed.inner] == ["Identity", "Identity", "Linear"]
    assert same(model, collapsed, (X,)) < 1e-5
    assert any("on 1 batches" in row.why for row in collapse_report(collapsed).removed)


def test_it_can_be_copied_saved_and_trained(tmp_path):
    model = Wrapper(block())
    collapsed = collapse(model, X)
    assert collapse_report(copy.deepcopy(collapsed)) == collapse_report(collapsed)
    torch.save(collapsed, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    assert collapse_report(loaded) == collapse_report(collapsed)
    assert torch.equal(loaded(X), collapsed(X))
    collapsed.requires_grad_(True)
    collapsed(X).sum().backward()
    assert all(p.grad is not None for p in collapsed.parameters())


def test_half_precision_stays():
    model = Wrapper(block()).to(torch.bfloat16)
    collapsed = collapse(model, X.bfloat16())
    assert {p.dtype for p in collapsed.parameters()} == {torch.bfloat16}
    assert collapsed.inner[0].out_features == 3
    assert same(model, collapsed, (X.bfloat16(),)) < 4e-2


def test_the_model_is_not_touched():
    model = Wrapper(block()).train()
    before = copy.deepcopy(model)
    collapse(model, X)
    assert model.training
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True))
    assert [type(m) for m in model.modules()] == [type(m) for m in before.modules()]


def test_a_layer_of_torchs_transformer_is_narrowed_and_its_fast_path_does_the_same():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    with torch.no_grad():
        for inner in model.layers:
            inner.linear1.weight[:10] = 0
    x = torch.randn(3, 5, 8)
    collapsed = collapse(model, x)
    assert [inner.linear1.out_features for inner in collapsed.layers] == [6, 6]
    assert same(model, collapsed, (torch.randn(4, 5, 8),)) < 1e-5


class Masked(nn.Module):
    """Leaves a mask out where it says nothing, as networks of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Gated()

    def forward(self, x, mask):
        return self.block(x, None if bool(mask.all()) else mask)


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.act, self.down = nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)

    def forward(self, x, mask=None):
        out = x + self.down(self.act(self.up(x)))
        return out if mask is None else out * mask


def test_a_part_that_was_called_without_a_mask_still_takes_one():
    torch.manual_seed(0)
    model = Masked().eval()
    with torch.no_grad():
        model.block.down.weight[1:] = 0
        model.block.down.bias[1:] = 0
    x, mask = torch.randn(3, 4), torch.tensor([[1.0], [0.0], [1.0]])
    smaller = collapse(model, (x, torch.ones(3, 1)))
    torch.testing.assert_close(smaller(x, mask), model(x, mask))
