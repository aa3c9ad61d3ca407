"""The states of a network between its blocks, and how far two networks are apart in them."""

import pytest
import torch
import zoo
from hypothesis import given
from hypothesis import strategies as st
from scenarios.thinned import plain
from torch import nn
from torch.nn import functional as F

from reflow_lightning.calibration.compared import Compared
from reflow_lightning.calibration.states import States, mismatch, state_names, states_of, unpaired_blocks
from reflow_lightning.experiments.models.resnet import ResNet
from reflow_lightning.experiments.models.vit import VisionTransformer
from reflow_lightning.layers.padding import Valid


class Flat(nn.Module):
    """No block at all."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2)

    def forward(self, x):
        return self.second(self.norm(self.first(x)).relu())


def test_the_states_of_a_residual_network_are_what_its_blocks_put_out():
    model = ResNet(blocks=1)
    found = states_of(model, state_names(model), torch.randn(2, 3, 32, 32), plain)
    assert [(name, values.shape[1]) for name, values in found.between] == [
        ("layer1.0", 16),
        ("layer2.0", 32),
        ("layer3.0", 64),
    ]
    assert [values.shape for values in found.outputs] == [(2, 10)]


def test_a_plain_sequence_is_compared_layer_by_layer_and_a_flat_network_at_all_weighted_layers():
    assert state_names(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3))) == [
        "0",
        "3",
    ]
    assert state_names(Flat()) == ["first", "second"]
    assert state_names(nn.Linear(2, 2)) == [""]


def test_attention_is_a_layer_and_no_block_of_others():
    names = state_names(VisionTransformer(image_size=8, patch_size=2, in_channels=1, num_classes=10))
    assert names
    assert not [name for name in names if "out_proj" in name]


@pytest.mark.parametrize("name", zoo.networks())
def test_every_network_has_states_and_agrees_with_itself(name):
    entry = zoo.network(name)
    model = entry.build().eval()
    loss = Compared(model, model, lambda network, batch: network(*batch), logits=1.0).loss(entry.batch(4), seed=0)
    assert float(loss) == pytest.approx(0, abs=1e-6)


@given(st.floats(0.1, 10), st.floats(-5, 5))
def test_a_state_counts_relative_to_its_variance(scale, shift):
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    expected = (x - y).square().mean() / y.var(correction=0)
    found = [States([("a", scale * values + shift)], []) for values in (x, y)]
    assert float(mismatch(*found, logits=1.0, valid=Valid())) == pytest.approx(float(expected), rel=1e-6)


def test_the_divergence_is_that_of_torch_in_images_and_sequences():
    for shape, move in (((8, 5), None), ((8, 5, 3, 3), None), ((8, 7, 5), (2, 1))):
        x, y = torch.randn(shape), torch.randn(shape)
        both = [States([], [values]) for values in (x, y)]
        found = float(mismatch(*both, logits=2.0, valid=Valid()) - mismatch(*both, logits=0.0, valid=Valid()))
        x, y = (values if move is None else values.movedim(*move) for values in (x, y))
        x, y = (torch.log_softmax(values, 1).movedim(1, -1).flatten(0, -2) for values in (x, y))
        assert float(found) == pytest.approx(
            2 * float(F.kl_div(x, y, reduction="batchmean", log_target=True)), rel=1e-4
        )


def test_a_constant_state_does_not_count():
    dense = States([("a", torch.ones(3, 2)), ("b", torch.tensor([[0.0, 2.0]]))], [])
    found = States([("a", torch.zeros(3, 2)), ("b", torch.tensor([[1.0, 2.0]]))], [])
    assert float(mismatch(found, dense, 1.0, Valid())) == 0.25


def test_blocks_that_ran_otherwise_or_on_no_row_do_not_count():
    dense = States([("a", torch.zeros(3, 2)), ("b", torch.tensor([[0.0, 2.0]])), ("none", torch.ones(0, 2))], [])
    found = States([("b", torch.tensor([[1.0, 2.0]])), ("a", torch.zeros(2, 2)), ("none", torch.ones(0, 2))], [])
    assert unpaired_blocks(found, dense) == {"a"}
    assert float(mismatch(found, dense, 1.0, Valid())) == 0.5


def test_networks_that_have_nothing_in_common_are_refused():
    for dense in (States([("b", torch.ones(2))], []), States([], [])):
        with pytest.raises(ValueError, match="have no block or output in common to align"):
            mismatch(States([("a", torch.ones(2))], []), dense, 1.0, Valid())


def test_classes_that_are_ruled_out_in_both_networks_do_not_count():
    x, y = torch.randn(6, 5), torch.randn(6, 5)
    few = [float(mismatch(States([], [x]), States([], [y]), weight, Valid())) for weight in (0.0, 1.0)]
    x, y = (torch.cat([values, torch.full((6, 1), -torch.inf)], 1) for values in (x, y))
    more = [float(mismatch(States([], [x]), States([], [y]), weight, Valid())) for weight in (0.0, 1.0)]
    assert torch.isfinite(torch.tensor(more)).all()
    assert few[1] > few[0]
    assert more[1] > more[0]


def test_outputs_that_are_hardly_logits_are_scaled_down():
    x, y = torch.randn(64, 10), torch.randn(64, 10)
    found = [
        float(mismatch(States([], [c * x]), States([], [c * y]), 1.0, Valid()))
        - float(mismatch(States([], [c * x]), States([], [c * y]), 0.0, Valid()))
        for c in (10.0, 1e3, 1e6)
    ]
    assert found == pytest.approx([found[0]] * 3, rel=1e-3)


def test_packed_sequences_are_states_too():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.head = nn.Sequential(nn.LSTM(8, 8, batch_first=True)), nn.Linear(8, 4)

        def forward(self, x):
            found, (hidden, _) = self.cell(nn.utils.rnn.pack_padded_sequence(x, [3, 2], batch_first=True))
            return found, self.head(hidden[-1])

    model = Packed().eval()
    found = states_of(model, state_names(model), torch.randn(2, 3, 8), plain)
    assert [tuple(values.shape) for _, values in found.between] == [(5, 8), (1, 2, 8), (1, 2, 8)]
    assert float(Compared(model, model, plain, 1.0).loss(torch.randn(2, 3, 8), 0)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_state_that_is_constant_but_for_rounding_does_not_count(dtype):
    torch.manual_seed(0)
    noise = torch.finfo(dtype).eps * torch.randint(-1, 2, (64,))
    constant, varied = (1 + noise).to(dtype), torch.randn(64).to(dtype)
    dense = States([("constant", constant), ("varied", varied)], [])
    found = States([("constant", torch.zeros(64, dtype=dtype)), ("varied", varied)], [])
    assert mismatch(found, dense, 0.0, Valid()) == 0
    half = States([("constant", constant), ("varied", varied * 0.5)], [])
    assert 0.05 < float(mismatch(half, dense, 0.0, Valid())) < 0.3
