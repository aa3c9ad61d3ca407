import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from reflow_lightning.layers.layer import Layer
from reflow_lightning.layers.padding import Padding, noticing
from reflow_lightning.layers.registry import layer_of
from reflow_lightning.running.hooks import Call

LENGTHS = torch.tensor([2, 4, 3])
VALID = torch.arange(4) < LENGTHS[:, None]
X = torch.randn(3, 4, 6)
IDS = torch.ones(3, 4, dtype=torch.long) * VALID


class Net(nn.Module):
    """One layer, and how it is run."""

    def __init__(self, layer, run):
        super().__init__()
        self.layer, self.run = layer, run

    def forward(self, x):
        return self.run(self.layer, x)


def pack(layer, x):
    return layer(pack_padded_sequence(x, LENGTHS, batch_first=True, enforce_sorted=False))


ATTENTION = nn.MultiheadAttention(6, 2, batch_first=True)
TOLD = {
    "packed": (nn.GRU(6, 5, batch_first=True), pack, X),
    "mask": (ATTENTION, lambda layer, x: layer(x, x, x, key_padding_mask=~VALID), X),
    "added mask": (ATTENTION, lambda a, x: a(x, x, x, torch.zeros(3, 4).masked_fill(~VALID, -torch.inf)), X),
    "padding_idx": (nn.Embedding(5, 6, padding_idx=0), lambda layer, x: layer(x), IDS),
}


@pytest.mark.parametrize("name", TOLD)
def test_layers_tell_what_is_padding(name):
    layer, run, given = TOLD[name]
    net = Net(layer, run)
    valid = Padding(net).of(net, given, lambda model, x: model(x))
    assert torch.equal(valid.of(3, 4), VALID)
    assert torch.equal(valid.of(4, 3), VALID.T)
    assert valid.of(3, 5) is None


def test_the_batch_tells_it_without_a_pass():
    batch = {"input_ids": IDS, "attention_mask": VALID.long()}
    assert torch.equal(Padding(nn.Linear(1, 1)).of(nn.Linear(1, 1), batch, pytest.fail).of(3, 4), VALID)


def test_a_network_that_tells_nothing_is_not_run_again():
    passes = []
    padding, net = Padding(Net(ATTENTION, lambda layer, x: layer(x, x, x))), Net(ATTENTION, lambda a, x: a(x, x, x))
    for _ in range(3):
        assert padding.of(net, X, lambda model, x: passes.append(model(x))).of(3, 4) is None
    assert len(passes) <= 1


def test_longer_sequences_of_the_batch_are_known_too():
    net, longer = Net(TOLD["packed"][0], pack), nn.functional.pad(X, (0, 0, 0, 3))
    valid = Padding(net).of(net, longer, lambda model, x: model(x))
    assert torch.equal(valid.of(3, 7), nn.functional.pad(VALID, (0, 3)))


def test_layers_that_do_not_agree_tell_nothing():
    net = Net(ATTENTION, lambda a, x: (a(x, x, x, ~VALID), a(x, x, x, VALID)))
    assert Padding(net).of(net, X, lambda model, x: model(x)).of(3, 4) is None


def test_calls_of_layers_that_treat_each_position_alike_are_stripped():
    net = Net(*TOLD["mask"][:2])
    valid = Padding(net).of(net, X, lambda model, x: model(x))
    linear: Layer = layer_of(nn.Linear(6, 2), "")
    call = Call((X,), {}, torch.randn(3, 4, 2))
    stripped = valid.call(call, linear)
    assert torch.equal(stripped.args[0], X[VALID])
    assert torch.equal(stripped.output, call.output[VALID])
    assert valid.call(call, layer_of(nn.GRU(6, 2), "")) is call


def test_attention_itself_leaves_out_what_is_masked():
    layer = layer_of(ATTENTION, "")
    with torch.no_grad():
        masked = Call((X, X, X), {"key_padding_mask": ~VALID}, ATTENTION(X, X, X, ~VALID))
        found = layer.outputs(masked)
        rows = next(layer.inputs(3, masked))[0]
    assert [len(values) for values in (*found, rows)] == [int(LENGTHS.sum())] * 5
    for sample, length in enumerate(LENGTHS):
        alone = X[sample : sample + 1, :length]
        with torch.no_grad():
            expected = layer.outputs(Call((alone, alone, alone), {}, ATTENTION(alone, alone, alone)))
        start = int(LENGTHS[:sample].sum())
        for values, of_one in zip(found, expected, strict=True):
            torch.testing.assert_close(values[start : start + length], of_one, rtol=1e-4, atol=1e-5)


def test_it_is_noticed_in_a_pass_that_is_run_anyway():
    noticed = []
    net = Net(*TOLD["packed"][:2])
    forward = noticing(net, lambda model, x: model(x), lambda: noticed.append(1))
    forward(net, X)
    assert noticed == [1]
