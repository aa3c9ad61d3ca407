import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenarios.wrecked import PRUNINGS, build, chain, inputs_for, wreck
from torch import fx, nn
from torch.nn import functional
from zoo import networks
from zoo.blocks import BLOCKS, IMAGES
from zoo.odd import Forward

from reflow_lightning.collapse.facts.analysis import Analysis
from reflow_lightning.collapse.facts.bounds import BoundsInterpreter
from reflow_lightning.collapse.facts.intervals import Bounds, of_activation, uniform
from reflow_lightning.collapse.graph.tracing import trace
from reflow_lightning.collapse.operators.activations import TURNS
from reflow_lightning.collapse.operators.affine import affine_of

FUNCTIONS = {
    "relu": [nn.ReLU()],
    "relu6": [nn.ReLU6()],
    "leaky_relu": [nn.LeakyReLU(0.2), nn.LeakyReLU(-0.5), nn.LeakyReLU(2.0)],
    "hardtanh": [nn.Hardtanh(), nn.Hardtanh(0.5, 2.0)],
    "hardsigmoid": [nn.Hardsigmoid()],
    "sigmoid": [nn.Sigmoid()],
    "tanh": [nn.Tanh()],
    "elu": [nn.ELU(), nn.ELU(-1.0)],
    "selu": [nn.SELU()],
    "celu": [nn.CELU(0.5)],
    "softplus": [nn.Softplus(), nn.Softplus(2.0)],
    "softsign": [nn.Softsign()],
    "logsigmoid": [nn.LogSigmoid()],
    "clamp": [lambda x: x.clamp(-1, 3)],
    "gelu": [nn.GELU(), nn.GELU("tanh")],
    "silu": [nn.SiLU()],
    "mish": [nn.Mish()],
    "hardswish": [nn.Hardswish()],
    "identity": [nn.Identity()],
    "prelu": [lambda x: functional.prelu(x, torch.tensor([-0.3], dtype=x.dtype))],
}
ENDS = st.one_of(st.floats(-12, 12), st.floats(-1e8, 1e8), st.sampled_from([-math.inf, math.inf, 0.0, 1e7, -1e7]))


class Listening(fx.Interpreter):
    """Keeps what each step puts out."""

    def run_node(self, n):
        self.__dict__.setdefault("seen", {})[n] = out = super().run_node(n)
        return out


def steps_outside_their_bounds(model, inputs, calls):
    """Which steps put out something outside of their bounds."""
    traced = trace(model.double(), inputs)
    found = Analysis(traced, [tuple(x.double() for x in inputs)]).bounds
    outside = []
    for call in calls:
        listening = Listening(traced, garbage_collect_values=False)
        listening.run(*(x.double() for x in call))
        for node, value in listening.seen.items():
            bounds = found[node]
            if isinstance(bounds, Bounds) and isinstance(value, torch.Tensor) and value.is_floating_point():
                slack = 1e-9 * value.abs() + 1e-9
                if not ((bounds.low <= value + slack) & (value - slack <= bounds.high)).all():
                    outside.append(node)
    return outside


def bounds_of(model, *inputs):
    """Bounds of the last step but one, the output."""
    analysis = Analysis(trace(model, inputs), [inputs])
    return analysis.bounds[list(analysis.traced.graph.nodes)[-2]]


def test_every_activation_function_is_tried():
    assert FUNCTIONS.keys() == TURNS.keys()


@pytest.mark.parametrize("name", FUNCTIONS)
@settings(deadline=None, max_examples=60)
@given(ends=st.tuples(ENDS, ENDS).filter(lambda ends: ends[0] != ends[1] or math.isfinite(ends[0])))
def test_an_activation_function_stays_within_its_bounds_and_reaches_them(name, ends):
    low, high = sorted(ends)
    first, last = max(min(low, 1e8), -1e8), min(max(high, -1e8), 1e8)
    points = torch.linspace(first, last, 4001, dtype=torch.float64).clamp(first, last)
    near = torch.linspace(-3, 3, 4001, dtype=torch.float64).clamp(first, last)
    for function in FUNCTIONS[name]:
        ends = Bounds(*torch.tensor([[low], [high]], dtype=torch.float64))
        found = of_activation(function, TURNS[name], (ends,), {})
        values = function(torch.cat([points, near]))
        assert found.low <= values.min() + 1e-9 * values.min().abs() + 1e-9
        assert found.high >= values.max() - 1e-9 * values.max().abs() - 1e-9
        if math.isfinite(low) and math.isfinite(high):  # else they may be wider
            assert found.low.item() == pytest.approx(values.min().item(), rel=1e-9, abs=1e-4)
            assert found.high.item() == pytest.approx(values.max().item(), rel=1e-9, abs=1e-4)


@settings(deadline=None, max_examples=40)
@given(
    module=st.sampled_from(
        [
            nn.Linear(4, 3),
            nn.Conv2d(4, 3, 3, padding=1),
            nn.Conv2d(4, 6, 2, groups=2, stride=2),
            nn.Conv2d(4, 3, 3, padding="same", padding_mode="reflect", bias=False),
            nn.Conv1d(4, 3, 3, padding=2, dilation=2),
            nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1, output_padding=1),
            nn.ConvTranspose1d(4, 6, 2, stride=3, groups=2),
            nn.ConvTranspose3d(4, 4, 2, dilation=2, groups=4, bias=False),
        ]
    ),
    seed=st.integers(0, 1000),
)
def test_the_bounds_of_a_linear_map_are_those_of_the_corners(module, seed):
    torch.manual_seed(seed)
    shape = (1, 4) if isinstance(module, nn.Linear) else (1, 4, *[5] * (module.weight.ndim - 2))
    low = torch.randn(shape).double()
    high = low + torch.rand(shape).double() * (torch.rand(shape) < 0.7)
    with torch.no_grad():
        found = affine_of(module).of(module.double(), Bounds(low, high))
        for _ in range(10):
            inside = module(low + (high - low) * torch.rand(shape).double().round())
            assert (found.low <= inside + 1e-12).all()
            assert (inside <= found.high + 1e-12).all()
        endless = affine_of(module).of(module, Bounds(low.masked_fill(torch.rand(shape) < 0.3, -math.inf), high))
    assert (endless.low <= found.low).all()
    assert (endless.high >= found.high).all()


@pytest.mark.parametrize("name", [name for name in networks("collapse") if name != "opaque"])
def test_activations_of_the_zoo_lie_within_their_bounds(name):
    for pruning in ("nothing", "rows", "nearly all"):
        calls = [tuple(x * size for x in inputs_for(name, 3, size)) for size in (1, 30)]
        assert steps_outside_their_bounds(wreck(build(name), pruning), inputs_for(name), calls) == []


@settings(deadline=None, max_examples=25)
@given(
    kinds=st.lists(st.sampled_from(sorted(BLOCKS)), min_size=1, max_size=5),
    flat=st.booleans(),
    pruning=st.sampled_from(PRUNINGS),
    seed=st.integers(0, 10**6),
)
def test_activations_of_random_networks_lie_within_their_bounds(kinds, flat, pruning, seed):
    calls = [(torch.randn(4, *IMAGES) * size,) for size in (0.1, 1, 100)]
    assert steps_outside_their_bounds(chain(kinds, flat, pruning, seed), (torch.randn(2, *IMAGES),), calls) == []


def test_constants_are_known_position_by_position_at_the_border():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 1, 3, padding=1)).double()
    nn.init.zeros_(model[0].weight)
    image = torch.randn(1, 1, 4, 4).double()
    found = bounds_of(model, image)
    torch.testing.assert_close(found.low, model(image).detach())
    assert torch.equal(found.low, found.high)
    assert uniform(found, 1).isnan().all()
    model[1].padding_mode, model[1].padding = "zeros", (0, 0)
    assert not uniform(bounds_of(model, image), 1).isnan().any()


def test_a_resized_constant_is_constant_but_for_rounding():
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Upsample(scale_factor=1.5, mode="bilinear"))
    nn.init.zeros_(model[0].weight)
    nn.init.constant_(model[0].bias, 0.1)
    assert uniform(bounds_of(model, torch.zeros(1, 1, 7, 7)), 1).item() == pytest.approx(0.1)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.sum(0),
        lambda x: x.sum(),
        lambda x: x * x.shape[0],
        lambda x: x + x.size(0),
        lambda x: torch.index_add(x, 0, torch.tensor([0]), x[:1], alpha=-2),
    ],
)
def test_what_depends_on_the_number_of_samples_is_not_taken_for_constant(function):
    found = bounds_of(Forward(lambda _, x: function(x.clamp(2, 2))), torch.zeros(3, 2))
    assert (found.low < found.high).all()


def test_what_was_observed_narrows_the_bounds_and_rounding_never_turns_them_round():
    known = Bounds(torch.tensor([0.0, 0.3, -math.inf]), torch.tensor([6.0, 0.3, math.inf]))
    found = known.within(torch.tensor([1.0, 0.30001, -1.0]), torch.tensor([7.0, 0.30001, 2.0]))
    assert found.low.tolist() == pytest.approx([1.0, 0.3, -1.0])
    assert found.high.tolist() == pytest.approx([6.0, 0.3, 2.0])
    assert found.constant.tolist() == [False, True, False]


def test_a_step_that_is_not_understood_may_put_out_anything():
    traced = trace(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Softmax(1)))
    values = {node: torch.zeros(1, 2) for node in traced.graph.nodes}
    found = list(BoundsInterpreter(traced, values, {}).find().values())
    assert found[2].low.tolist() == [[0, 0]]
    assert found[3].low.tolist() == [[-math.inf, -math.inf]]


def test_the_bounds_of_a_branch_meet_in_a_sum_and_a_product():
    def run(_, x):
        gate = x.sigmoid()
        return gate * 2 + x.clamp(0, 1) - gate / 2

    found = bounds_of(Forward(run), torch.zeros(1, 1))
    assert (found.low.item(), found.high.item()) == (-0.5, 3.0)
