"""Norms of inputs against what the layers multiply, laid out in full."""

import copy

import pytest
import torch
from scenarios.gradients import make, split, weights_of
from torch import nn
from torch.nn import functional

from reflow_lightning.pruning import Wanda, prune

torch.manual_seed(0)


def norms(layer, *calls, names=("weight",)):
    """The norms that the scores hold, of a layer that gets these arguments in its calls."""
    layer = layer.double().eval()
    named = dict(layer.named_parameters())
    ones = {name: torch.ones_like(named[name]) for name in names}
    found = Wanda("all").estimate(layer, ones, calls, lambda model, call: model(*call))
    return [found(name, one) for name, one in ones.items()]


def x(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).double()


def same(found, expected):
    torch.testing.assert_close(found, expected.expand_as(found), rtol=1e-9, atol=1e-12)


def energy_by_perturbation(layer, values):
    """Sum of squares of what each weight multiplies, by the outputs that it alone makes."""
    expected = torch.zeros_like(layer.weight)
    for index in range(expected.numel()):
        alone = copy.deepcopy(layer).requires_grad_(False)
        alone.weight.zero_()
        alone.weight.view(-1)[index] = 1
        expected.view(-1)[index] = alone(values).square().sum()
    return expected


def test_a_linear_layer_counts_all_positions_of_all_batches():
    a, b = x(4, 6, 3), x(5, 3)
    [found] = norms(nn.Linear(3, 2), (a,), (b,))
    same(found, torch.cat([a.flatten(0, 1), b]).norm(dim=0))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2, bias=False), (3, 4, 11)),
        (nn.Conv2d(2, 3, (2, 3), stride=(2, 1), padding=(0, 2), bias=False), (3, 2, 7, 6)),
        (nn.Conv2d(3, 3, 3, padding="same", groups=3, bias=False), (2, 3, 5, 5)),
        (nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular", bias=False), (2, 2, 5, 5)),
        (nn.Conv2d(2, 2, 3, padding=2, padding_mode="reflect", bias=False), (2, 2, 5, 5)),
        (nn.Conv3d(2, 2, 2, stride=2, bias=False), (2, 2, 4, 5, 4)),
        (nn.ConvTranspose2d(2, 3, 2, stride=2, bias=False), (2, 2, 4, 3)),
        (nn.ConvTranspose1d(4, 4, 3, groups=2, bias=False), (2, 4, 5)),
    ],
)
def test_a_convolution_counts_what_lies_under_each_element_of_its_kernel(layer, shape):
    layer, values = layer.double(), x(*shape)
    same(norms(layer, (values,))[0], energy_by_perturbation(layer, values).sqrt())
    same(norms(layer, (values[0],))[0], energy_by_perturbation(layer, values[0]).sqrt())


@pytest.mark.parametrize("options", [{}, {"kdim": 3, "vdim": 5}, {"bias": False}])
def test_attention_knows_the_inputs_of_all_its_projections(options):
    layer = nn.MultiheadAttention(4, 2, batch_first=True, **options).double().eval()
    q, k, v = x(2, 3, 4), x(2, 6, options.get("kdim", 4)), x(2, 6, options.get("vdim", 4))
    by_input = [values.flatten(0, 1).norm(dim=0) for values in (q, k, v)]
    heads = copy.deepcopy(layer)
    with torch.no_grad():
        heads.out_proj.weight.copy_(torch.eye(4))
        if heads.out_proj.bias is not None:
            heads.out_proj.bias.zero_()
        through = heads(q, k, v)[0].flatten(0, 1).norm(dim=0)
    if options.get("kdim"):
        names = ("q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight")
        for found, expected in zip(norms(layer, (q, k, v), names=names), [*by_input, through], strict=True):
            same(found, expected)
    else:
        into, out = norms(layer, (q, k, v), names=("in_proj_weight", "out_proj.weight"))
        same(into, torch.cat([norm.expand(4, 4) for norm in by_input]))
        same(out, through)


def test_an_encoder_layer_does_not_hide_its_inputs_on_the_fast_path():
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 2, enable_nested_tensor=False)
    before = torch.backends.mha.get_fastpath_enabled()
    scores = norms(model, (x(2, 3, 4),), names=weights_of(model))
    assert all(bool((score > 0).any()) for score in scores)
    assert torch.backends.mha.get_fastpath_enabled() == before


def cells_by_hand(module, values, states):
    """Inputs and states of every step of every layer, by cells."""
    kind = {nn.RNN: nn.RNNCell, nn.GRU: nn.GRUCell, nn.LSTM: nn.LSTMCell}[type(module)]
    directions = 1 + module.bidirectional
    seen = {}
    for layer in range(module.num_layers):
        outputs = []
        for direction in range(directions):
            end = f"l{layer}" + ("_reverse" if direction else "")
            cell = kind(values.shape[-1], module.hidden_size).double()
            with torch.no_grad():
                for name, parameter in cell.named_parameters():
                    parameter.copy_(getattr(module, f"{name}_{end}"))
            state = [s[layer * directions + direction] for s in states]
            steps, before = [], []
            for step in values.flip(0) if direction else values:
                before.append(state[0])
                out = cell(step, tuple(state) if len(state) == 2 else state[0])
                state = list(out) if isinstance(out, tuple) else [out]
                steps.append(state[0])
            seen[f"weight_ih_{end}"] = values.flatten(0, 1).norm(dim=0)
            seen[f"weight_hh_{end}"] = torch.cat(before).norm(dim=0)
            outputs.append(torch.stack(steps[::-1] if direction else steps))
        values = torch.cat(outputs, -1)
    return seen


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True, "dropout": 0.5}])
@pytest.mark.parametrize("given", [True, False])
def test_recurrent_layers_know_inputs_and_states_of_every_step(kind, options, given):
    module = kind(3, 4, **options).double()
    count = module.num_layers * (1 + module.bidirectional)
    states = [x(count, 2, 4), x(count, 2, 4) / 2][: 1 + (kind is nn.LSTM)]
    values = x(5, 2, 3)
    fed = values.transpose(0, 1) if module.batch_first else values
    hx = tuple(states) if kind is nn.LSTM else states[0]
    if not given:
        states = [torch.zeros_like(state) for state in states]
    with torch.no_grad():
        expected = cells_by_hand(module, values, states)
    found = norms(module, (fed, hx) if given else (fed,), names=tuple(expected))
    for score, norm in zip(found, expected.values(), strict=True):
        same(score, norm)


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
def test_cells_know_their_inputs_and_states(kind):
    values, state = x(5, 3), x(5, 4)
    hx = (state, state) if kind is nn.LSTMCell else state
    into, back = norms(kind(3, 4), (values, hx), (values,), names=("weight_ih", "weight_hh"))
    same(into, (2 * values.square().sum(0)).sqrt())
    same(back, state.norm(dim=0))


def test_a_tied_weight_counts_in_all_layers_that_use_it():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)).double()
    model[2].weight = model[0].weight
    values = x(5, 3)
    inner = model[:2](values)
    [found] = norms(model, (values,), names=("0.weight",))
    same(found, (values.square().sum(0) + inner.square().sum(0)).sqrt())


def test_the_split_into_batches_changes_nothing():
    model, batch = make("small_net")
    weights = weights_of(model)
    whole, parts = (
        Wanda("all").estimate(model, weights, batches, lambda m, b: m(b[0]))
        for batches in ([batch], split(batch, [7, 5]))
    )
    assert all(torch.allclose(whole(n, w), parts(n, w), rtol=1e-10) for n, w in weights.items())


def test_weights_whose_input_is_unknown_are_errors_that_name_them():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.matrix = nn.Parameter(torch.randn(3, 3))

        def forward(self, values):
            return functional.linear(values, self.matrix)

    with pytest.raises(ValueError, match=r"knows no input of 'matrix'.*exclude"):
        prune(Own(), 0.5, criterion="wanda", include="matrix", batches=[x(2, 3).float()], max_batches=1)
    layer, values = nn.LSTM(3, 4, proj_size=2), x(5, 2, 3).float()
    with pytest.raises(ValueError, match="can't see what 'weight_ih_l0' multiplies"):
        prune(layer, 0.5, criterion="wanda", batches=[values], max_batches=1, forward=nn.Module.__call__)


def test_of_a_packed_sequence_the_steps_that_it_holds_count():
    layer, sequences = nn.GRU(3, 4).double(), [x(3, 3), x(2, 3)]
    found = norms(layer, (nn.utils.rnn.pack_sequence(sequences),), names=["weight_ih_l0"])
    same(found[0], torch.cat(sequences).norm(dim=0))
