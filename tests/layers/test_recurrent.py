import itertools

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from reflow_lightning.calibration import Call, NotSupportedError, layer_of
from reflow_lightning.experiments.models.fastgrnn import FastGRNNCell

KINDS = [(nn.RNN, {"nonlinearity": "tanh"}), (nn.RNN, {"nonlinearity": "relu"}), (nn.GRU, {}), (nn.LSTM, {})]
FORMS = [
    {},
    {"batch_first": True},
    {"bias": False},
    {"num_layers": 2, "bidirectional": True, "batch_first": True},
    {"num_layers": 3, "bidirectional": True, "bias": False},
]


def step(module, w, u, b, b2, x, h, c):
    """The textbook's cell: pre-activations, new h, new c."""
    if isinstance(module, (nn.LSTM, nn.LSTMCell)):
        gates = x @ w.T + h @ u.T + b + b2
        i, f, g, o = gates.chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return [gates], o.sigmoid() * c.tanh(), c
    if isinstance(module, (nn.GRU, nn.GRUCell)):
        size = h.shape[-1]
        from_x, from_h = x @ w.T + b, h @ u.T + b2
        gates = (from_x + from_h)[:, : 2 * size]
        r, z = gates.sigmoid().chunk(2, -1)
        n = (from_x[:, 2 * size :] + r * from_h[:, 2 * size :]).tanh()
        return [gates, from_x[:, 2 * size :], from_h[:, 2 * size :]], (1 - z) * n + z * h, c
    gate = x @ w.T + h @ u.T + b + b2
    return [gate], gate.tanh() if module.nonlinearity == "tanh" else gate.relu(), c


def reference(module, x, h0, c0):
    """Pre-activations of every layer and direction, step by step, from x of shape (steps, samples, size)."""
    found = []
    for layer in range(module.num_layers):
        sides = []
        for side, suffix in enumerate(["", "_reverse"][: 1 + module.bidirectional]):
            place = layer * (1 + module.bidirectional) + side
            weights = [getattr(module, f"weight_{part}_l{layer}{suffix}") for part in ("ih", "hh")]
            biases = [getattr(module, f"bias_{p}_l{layer}{suffix}") if module.bias else 0 for p in ("ih", "hh")]
            if not module.bias:
                biases = [torch.zeros(len(weights[0]))] * 2
            h, c, states, gates = h0[place], c0[place], [], []
            for now in x.flip(0) if side else x:
                parts, h, c = step(module, *weights, *biases, now, h, c)
                gates.append(parts)
                states.append(h)
            found += [torch.cat(parts) for parts in zip(*gates, strict=True)]
            sides.append(torch.stack(states).flip(0) if side else torch.stack(states))
        x = torch.cat(sides, -1)
    return found, x


def check(layer, call, expected):
    """Both what is said to be put out, and the inputs times the weights, are the expected pre-activations."""
    for index, (affine, y, truth) in enumerate(zip(layer.maps, layer.outputs(call), expected, strict=True)):
        torch.testing.assert_close(y, truth, rtol=1e-5, atol=1e-5)
        (x,) = next(iter(layer.inputs(index, call)))
        torch.testing.assert_close(x @ affine.matrix().T + sum(affine.biases), truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kind", "form", "started"), list(itertools.product(KINDS, FORMS, [True, False])))
def test_preactivations_are_those_of_the_textbook(kind, form, started):
    torch.manual_seed(0)
    module = kind[0](3, 4, **kind[1], **form)
    x = torch.randn(5, 2, 3)
    places = module.num_layers * (1 + module.bidirectional)
    h0, c0 = (torch.randn(places, 2, 4) * started for _ in range(2))
    given = ((h0, c0) if isinstance(module, nn.LSTM) else h0,) if started else ()
    args = (x.transpose(0, 1) if module.batch_first else x, *given)
    with torch.no_grad():
        call = Call(args, {}, module(*args))
        expected, output = reference(module, x, h0, c0)
        torch.testing.assert_close(call.output[0].transpose(0, 1) if module.batch_first else call.output[0], output)
        check(layer_of(module, "cells"), call, expected)


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_a_single_sequence_without_batch_dimension(kind):
    module, x = kind(3, 4, batch_first=True, bidirectional=True), torch.randn(5, 3)
    h = torch.randn(2, 4)
    state = (h, h + 1) if kind is nn.LSTM else h
    with torch.no_grad():
        call = Call((x,), {"hx": state}, module(x, state))
        check(layer_of(module, ""), call, reference(module, x[:, None], h[:, None], h[:, None] + 1)[0])


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("started", [True, False])
@pytest.mark.parametrize("samples", [(2,), ()])
def test_cells_that_are_called_once_a_step(kind, bias, started, samples):
    module, x = kind(3, 4, bias), torch.randn(*samples, 3)
    h, c = torch.randn(*samples, 4) * started, torch.randn(*samples, 4) * started
    given = ((h, c) if kind is nn.LSTMCell else h,) if started else ()
    with torch.no_grad():
        biases = (module.bias_ih, module.bias_hh) if bias else (torch.zeros(len(module.weight_ih)),) * 2
        rows = (value.reshape(-1, value.shape[-1]) for value in (x, h, c))
        expected, *_ = step(module, module.weight_ih, module.weight_hh, *biases, *rows)
        check(layer_of(module, ""), Call((x, *given), {}, module(x, *given)), expected)


def test_each_cell_is_solved_first_with_the_states_of_the_dense_network_then_with_its_own():
    layer = layer_of(nn.GRU(3, 4, 2), "gru")
    assert [(stage.maps, stage.dense_inputs) for stage in layer.stages] == [
        ((0, 1, 2), True),
        ((0, 1, 2), False),
        ((3, 4, 5), True),
        ((3, 4, 5), False),
    ]
    assert [affine.name for affine in layer.maps[3:]] == [
        f"gru.l1.{part}" for part in ("gates", "candidate_ih", "candidate_hh")
    ]
    assert layer.feeds_back


@pytest.mark.parametrize("started", [True, False])
def test_the_preactivation_of_fastgrnn(started):
    cell, x, h = FastGRNNCell(3, 4), torch.randn(2, 5, 3), torch.randn(2, 4) * started
    expected, state = [], h
    with torch.no_grad():
        for now in x.unbind(1):
            expected.append(now @ cell.weight_ih.T + state @ cell.weight_hh.T + cell.bias_z)
            state = cell.step(now @ cell.weight_ih.T, state)
        call = Call((x, h) if started else (x,), {}, cell(x, h) if started else cell(x))
        torch.testing.assert_close(call.output, state)
        check(layer_of(cell, "cell"), call, [torch.cat(expected)])


def test_gain_and_shift_of_fastgrnn_act_on_one_gate_and_the_other_goes_on_differing_by_a_constant():
    cell, shared = FastGRNNCell(3, 4), torch.randn(6, 4)
    nn.init.normal_(cell.bias_z)
    gain, shift = torch.rand(4) + 0.5, torch.randn(4)
    expected = gain * (shared + cell.bias_z) + shift
    old, apart = cell.weight_ih.detach().clone(), (cell.bias_h - cell.bias_z).detach()
    layer_of(cell, "").maps[0].rescale(gain, shift)
    torch.testing.assert_close(cell.weight_ih, gain[:, None] * old)
    torch.testing.assert_close(gain * shared + cell.bias_z, expected)
    torch.testing.assert_close(gain * shared + cell.bias_h, expected + apart)


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_a_rescaled_map_gives_gain_times_y_plus_shift_for_the_same_inputs(kind):
    module, x, h = kind(3, 4), torch.randn(1, 6, 3), torch.zeros(1, 6, 4)  # one step: states do not change
    layer = layer_of(module, "")
    state = (h, h) if kind is nn.LSTM else h
    with torch.no_grad():
        call = Call((x, state), {}, module(x, state))
        for index, affine in enumerate(layer.maps):
            before = layer.outputs(call)[index]
            gain, shift = torch.rand(affine.channels) + 0.5, torch.randn(affine.channels)
            affine.rescale(gain, shift)
            torch.testing.assert_close(layer.outputs(call)[index], gain * before + shift, rtol=1e-5, atol=1e-5)


def test_what_is_not_supported_says_so():
    with pytest.raises(NotSupportedError, match="an LSTM with proj_size"):
        layer_of(nn.LSTM(3, 4, proj_size=2), "")
    with pytest.raises(NotSupportedError, match="a FastGRNN cell with factored matrices"):
        layer_of(FastGRNNCell(3, 4, rank_w=2), "")


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("how", [{}, {"bidirectional": True, "num_layers": 2}])
@pytest.mark.parametrize("in_order", [True, False])
def test_of_a_packed_sequence_it_sees_what_it_sees_of_each_sequence_alone(kind, how, in_order):
    module, lengths = kind(3, 4, **how), [5, 3, 3, 1] if in_order else [3, 5, 1, 3]
    sequences = [torch.randn(length, 3) for length in lengths]
    states = torch.randn(2, len(module.all_weights), 4, 4)  # of each cell and sequence

    def seen(given, h, c):
        state = [h, c] if kind is nn.LSTM else h
        return layer_of(module, "").states(Call((given, state), {}, None))

    with torch.no_grad():
        packed = seen(pack_sequence(sequences, enforce_sorted=in_order), *states)
        alone = [seen(x[:, None], *states[:, :, i : i + 1]) for i, x in enumerate(sequences)]
    for cell, found in enumerate(packed):
        for part in (0, 1):
            expected = torch.cat([of_one[cell][part] for of_one in alone])
            assert found[part].shape == expected.shape
            order, other = (values[:, 0].argsort() for values in (found[part], expected))
            torch.testing.assert_close(found[part].sum(0), expected.sum(0), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(found[part][order], expected[other], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("given", [tuple, list])
def test_an_lstm_takes_its_state_as_a_list_too(given):
    module, x, state = nn.LSTM(3, 4, batch_first=True), torch.randn(2, 5, 3), torch.randn(2, 1, 2, 4)
    with torch.no_grad():
        _, h = layer_of(module, "").states(Call((x,), {"hx": given(state)}, None))[0]
        assert torch.equal(h[:2], state[0, 0])
        torch.testing.assert_close(h[2:4], module(x[:, :1], tuple(state))[0][:, 0])


def test_a_cell_of_another_kind_has_to_be_registered():
    class OwnCell(nn.RNNCellBase):
        pass

    with pytest.raises(NotSupportedError, match="OwnCell is not registered with layer_of"):
        layer_of(OwnCell(3, 4, True, 1), "")
