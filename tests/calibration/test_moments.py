import copy

import pytest
import torch
from scenarios.thinned import bits, make, outputs, plain, spread, thinned
from torch import nn
from zoo import network, networks
from zoo.convolutional import convolutions
from zoo.linear import mlp

from reflow_lightning import calibrate
from reflow_lightning.calibration import Moments
from reflow_lightning.calibration.matching import LARGEST_GAIN, passes_needed
from reflow_lightning.layers.find import find_layers
from reflow_lightning.running.hooks import watching

NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)


def can_shift(model, name):
    return getattr(model.get_submodule(name), "bias", None) is not None


@pytest.mark.parametrize("name", networks("feed forward"))
def test_every_channel_gets_the_mean_and_standard_deviation_of_the_dense_network(name):
    model, dense, batches = make(name, 1, size=64)
    result = calibrate(model, batches, repair="moments", reference=dense, max_batches=1)
    found, wanted = outputs(model, batches), outputs(dense, batches)
    assert list(found) == list(result.repaired) == list(wanted)
    for layer, values in found.items():
        alive = spread(values) > 1e-6
        assert int(alive.sum()) > 0
        if can_shift(model, layer):
            torch.testing.assert_close(values.mean(0), wanted[layer].mean(0), rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(spread(values)[alive], spread(wanted[layer])[alive], rtol=1e-4, atol=1e-5)
        else:
            sizes = values.square().mean(0).sqrt(), wanted[layer].square().mean(0).sqrt()
            torch.testing.assert_close(sizes[0][alive], sizes[1][alive], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["mlp", "layernorm", "convolutions", "groupnorm"])
def test_many_small_batches_come_close_to_that(name):
    model, dense, batches = make(name, 8, size=64)
    distance = {layer: values - values.mean(0) for layer, values in outputs(model, batches).items()}
    calibrate(model, batches, repair="moments", reference=dense, max_batches=8)
    found, wanted = outputs(model, batches), outputs(dense, batches)
    for layer, values in found.items():
        scale = spread(wanted[layer]).clamp(min=1e-3)
        alive = spread(values) > 1e-6
        off = ((spread(values) - spread(wanted[layer])) / scale)[alive].abs()
        assert float(off.max()) < 0.1
        assert float(off.mean()) < 0.03
        assert float(((values.mean(0) - wanted[layer].mean(0)) / scale)[alive].abs().max()) < 0.1
    assert distance.keys() == found.keys()


@torch.no_grad()
def layer_by_layer(model, dense, batches):
    """The plain way: for each layer in turn run both networks over all batches, then scale its rows."""
    wanted = outputs(dense, batches)
    for name in wanted:
        module, values = model.get_submodule(name), outputs(model, batches)[name]
        if module.bias is None:
            gain = (wanted[name].square().mean(0) / values.square().mean(0)).sqrt()
        else:
            gain = spread(wanted[name]) / spread(values)
        gain = torch.where(spread(values) < 1e-9, 1.0, gain.clamp(1 / LARGEST_GAIN, LARGEST_GAIN))
        rows = module.weight.transpose(0, 1) if isinstance(module, nn.ConvTranspose2d) else module.weight
        rows.mul_(gain.float().view(-1, *[1] * (rows.ndim - 1)))
        if module.bias is not None:
            shift = wanted[name].mean(0) - gain * values.mean(0)
            module.bias.copy_(module.bias * gain + shift)


@pytest.mark.parametrize("name", [name for name in networks("feed forward") if name != "rmsnorm"])
def test_one_pass_does_what_a_pass_for_each_layer_does(name):
    model, dense, batches = make(name, 1, size=64)
    expected = copy.deepcopy(model)
    layer_by_layer(expected, dense, batches)
    Moments()(model, batches, plain, dense)
    for parameter, value in expected.named_parameters():
        torch.testing.assert_close(model.get_parameter(parameter), value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["mlp", "layernorm", "groupnorm"])
def test_the_folded_network_equals_the_one_that_is_corrected_in_hooks(name):
    model, dense, batches = make(name, 1, size=64)
    folded = copy.deepcopy(model)
    Moments()(folded, batches, plain, dense)
    wanted = outputs(dense, batches)

    def corrected(layer, call):
        dim = find_layers(model).known[layer].dim
        rows = call.output.movedim(dim, -1).flatten(0, -2).double()
        gain = torch.where(spread(rows) < 1e-9, 1.0, (spread(wanted[layer]) / spread(rows)).clamp(0.1, 10.0))
        shift = wanted[layer].mean(0) - gain * rows.mean(0)
        return (call.output.movedim(dim, -1) * gain + shift).movedim(-1, dim).float()

    with torch.no_grad(), watching(model, wanted, corrected):
        unfolded = model(batches[0])
    torch.testing.assert_close(folded(batches[0]), unfolded, rtol=1e-5, atol=1e-5)


def of_attention(**options):
    torch.manual_seed(0)
    dense = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0, **options)
    return thinned(copy.deepcopy(dense)).eval(), dense.eval(), torch.randn(64, 5, 8)


@pytest.mark.parametrize("norm_first", [True, False])
def test_projections_of_attention_get_close(norm_first):
    model, dense, batch = of_attention(norm_first=norm_first)
    Moments()(model, [batch], plain, dense)
    found, wanted = outputs(model, [batch]), outputs(dense, [batch])
    assert list(found) == list(wanted)
    for name, values in found.items():
        torch.testing.assert_close(spread(values), spread(wanted[name]), rtol=0.1, atol=0.05)
        torch.testing.assert_close(values.mean(0), wanted[name].mean(0), rtol=0.1, atol=0.05)


@pytest.mark.parametrize("name", ["rnn", "gru", "lstm", "gru_cell", "lstm_cell", "fastgrnn"])
def test_gates_of_recurrent_layers_get_close(name):
    model, dense, batches = make(name, 1, size=128)
    before = outputs(model, batches)
    calibrate(model, batches, repair="moments", reference=dense, max_batches=1)
    found, wanted = outputs(model, batches), outputs(dense, batches)
    for gate, values in found.items():
        for moment in (spread, lambda y: y.mean(0)):
            left = (moment(values) - moment(wanted[gate])).norm() / (moment(before[gate]) - moment(wanted[gate])).norm()
            assert float(left) < 0.1  # fifteen steps of a quarter, of which each moves the inputs of the next


def test_a_dead_row_gets_the_mean_of_the_dense_network_through_its_bias():
    model, dense, batches = make("mlp", 1)
    model[0].weight.data[3] = 0
    Moments()(model, batches, plain, dense)
    assert not model[0].weight[3].any()
    torch.testing.assert_close(model[0].bias[3], dense[0](batches[0]).mean(0)[3])


def test_without_bias_only_the_scale_changes():
    model, dense, batches = make("rmsnorm", 1)
    old = model[1].weight.detach().clone()
    Moments()(model, batches, plain, dense)
    assert not torch.equal(model[1].weight, old)
    assert model[1].bias is None if hasattr(model[1], "bias") else True


def test_a_dense_network_is_left_as_it_is():
    _, dense, batches = make("groupnorm", 2)
    model = copy.deepcopy(dense)
    calibrate(model, batches, repair="moments", reference=dense, max_batches=2)
    for name, value in dense.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), value, rtol=1e-4, atol=1e-5)


def test_layers_that_cannot_be_written_are_named_and_left_alone():
    model = nn.Sequential(
        nn.Linear(8, 8),
        nn.ReLU(),
        nn.Linear(8, 8),
        nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)),
        nn.Linear(8, 3),
    )
    model[2].weight = model[0].weight
    dense, batch = copy.deepcopy(model), torch.randn(32, 8)
    thinned(model)
    before = bits(model)
    with pytest.warns(UserWarning, match=r"left alone '0', '2': it shares a parameter.*'3': its weight is no plain"):
        result = calibrate(model, [batch], repair="moments", reference=dense, max_batches=1)
    assert result.repaired == ("4",)
    assert set(result.skipped) == {"0", "2", "3"}
    assert {name for name, value in bits(model).items() if value != before[name]} == {"4.weight", "4.bias"}


def test_the_default_of_networks_with_their_number_of_passes():
    def passes(name):
        return passes_needed(find_layers(network(name).build()).known.values())

    assert [passes(name) for name in ("mlp", "batchnorm", "attention", "gru", "fastgrnn")] == [1, 1, 2, 16, 16]


def test_each_pass_reads_the_batches_once():
    model, dense, batches = make("attention", 2)
    seen = []
    Moments()(model, batches, lambda network, batch: (seen.append(network), network(batch)), dense)
    assert [network is model for network in seen] == [False, True] * 4


def test_a_deep_network_gets_its_signal_back():
    torch.manual_seed(0)
    dense = nn.Sequential(*(part for _ in range(12) for part in (nn.Linear(64, 64), nn.ReLU())))
    for layer in dense[::2]:
        nn.init.kaiming_normal_(layer.weight)
    model, batch = thinned(copy.deepcopy(dense)), torch.randn(256, 64)
    pruned, wanted = model(batch).std().item(), dense(batch).std().item()
    calibrate(model, [batch], repair="moments", reference=dense, max_batches=1)
    assert pruned < 0.2 * wanted
    assert model(batch).std().item() == pytest.approx(wanted, rel=0.15)


def test_convolutions_keep_their_memory_format():
    model, dense, batches = make("convolutions", 1)
    model = model.to(memory_format=torch.channels_last)
    calibrate(model, batches, repair="moments", reference=dense, max_batches=1)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_the_networks_of_these_tests_have_what_they_say():
    assert any(isinstance(module, NORMS) for module in mlp(nn.LayerNorm(16)))
    assert not any(isinstance(module, NORMS) for module in convolutions())


def test_an_unpruned_network_that_calls_a_layer_several_times_stays_as_it_is():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside, self.norm, self.head = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 3)

        def forward(self, x):
            for _ in range(3):
                x = torch.relu(self.norm(self.inside(x))) + x
            return self.head(x)

    model, batches = Shared(), [torch.randn(64, 8) for _ in range(3)]
    before = model(batches[0]).detach()
    calibrate(model, batches, repair="moments", reference=copy.deepcopy(model), max_batches=3)
    torch.testing.assert_close(model(batches[0]), before, rtol=1e-4, atol=1e-5)


def test_layers_behind_one_that_feeds_back_are_corrected_for_what_it_gives_in_the_end():
    model, dense, batches = make("gru", 1, size=128)
    calibrate(model, batches, repair="moments", reference=dense, max_batches=1)
    found, wanted = model(batches[0]), dense(batches[0])
    torch.testing.assert_close(found.mean(0), wanted.mean(0), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.std(0), wanted.std(0), rtol=1e-3, atol=1e-4)
