import copy
import warnings

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from reflow_lightning import Pruner, calibrate, prune
from reflow_lightning.calibration import BatchNormStatistics
from reflow_lightning.calibration.closer import Closer, Likeness, likeness
from reflow_lightning.calibration.in_turn import InTurn
from reflow_lightning.running.batches import Batches
from reflow_lightning.running.forward import default_forward

SAMPLES = torch.randn(512, 4, generator=torch.Generator().manual_seed(1)) @ torch.randn(
    4, 16, generator=torch.Generator().manual_seed(2)
)
BATCHES = list(SAMPLES.split(128))


class Autoencoder(nn.Module):
    """Decodes with the weight of the encoder, by a function that no layer sees, or with a layer of its own."""

    def __init__(self, tied):
        super().__init__()
        self.encoder, self.bias = nn.Linear(16, 8), nn.Parameter(torch.zeros(16))
        self.decoder = None if tied else nn.Linear(8, 16)

    def forward(self, x):
        code = torch.relu(self.encoder(x))
        return F.linear(code, self.encoder.weight.t(), self.bias) if self.decoder is None else self.decoder(code)


def trained(tied):
    model = Autoencoder(tied)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(200):
        optimizer.zero_grad()
        F.mse_loss(model(SAMPLES), SAMPLES).backward()
        optimizer.step()
    return model


def pruned(dense):
    model = copy.deepcopy(dense)
    prune(model, 0.7)
    return model


def told(model, dense, repair, batches=BATCHES):
    """The warnings of a repair that made a network less like the dense one."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        calibrate(model, batches, repair=repair, reference=dense)
    return [str(one.message) for one in caught if "less like the dense one" in str(one.message)]


def error(model):
    return F.mse_loss(model(SAMPLES), SAMPLES).item()


def test_a_weight_that_acts_outside_of_its_layer_is_noticed_by_what_comes_of_it():
    dense = trained(tied=True)
    fitted, aligned = pruned(dense), pruned(dense)
    before = error(fitted)
    (message,) = told(fitted, dense, "reconstruct")
    assert error(fitted) > before
    assert "'align' fits the network as a whole" in message
    assert not told(aligned, dense, "align")
    assert error(aligned) < before


def test_several_prunings_tell_it_once():
    dense = trained(tied=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Pruner(0.7, repair="reconstruct", steps=4).apply(dense, BATCHES)
    assert sum("less like the dense one" in str(one.message) for one in caught) == 1


@pytest.mark.parametrize("repair", ["moments", "reconstruct", "reselect", "align", "auto"])
def test_a_repair_that_helps_warns_of_nothing(repair):
    dense = trained(tied=False)
    assert not told(pruned(dense), dense, repair)


def test_neither_direction_nor_distance_alone_is_told():
    before = Likeness(cosine=0.8, error=0.5)
    assert Likeness(0.7, 0.6).is_worse_than(before)
    assert not Likeness(0.7, 0.4).is_worse_than(before)  # what was far too strong has turned a little
    assert not Likeness(0.8, 0.9).is_worse_than(before)  # the same signal, with its strength back
    assert not Likeness(0.1, 0.9).is_worse_than(Likeness(0.3, 0.8))  # nothing was left to lose


def test_outputs_that_do_not_vary_or_do_not_fit_cannot_be_compared():
    dense = torch.randn(8, 3)
    assert likeness(dense, dense) == Likeness(pytest.approx(1.0), 0.0)
    assert likeness(torch.ones(8, 3), torch.ones(8, 3)) is None
    assert likeness(1 + 1e-7 * dense, 1 + 1e-7 * dense.flip(0)) is None  # varies by rounding alone
    assert likeness(torch.randn(7, 3), dense) is None


class Pair(tuple):
    """A tuple with a constructor of its own."""

    __slots__ = ()

    def __new__(cls, one, other):
        return tuple.__new__(cls, (one, other))


class Gives(nn.Module):
    """A network with outputs of some kind."""

    def __init__(self, kind):
        super().__init__()
        self.body, self.kind = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)), kind

    def forward(self, x):
        return self.kind(self.body(x))


KINDS = {
    "sparse": lambda y: y.relu().to_sparse(),
    "nested": lambda y: torch.nested.nested_tensor([y[:3], y[3:]]),
    "jagged": lambda y: torch.nested.nested_tensor([y[:3], y[3:]], layout=torch.jagged),
    "meta": lambda y: y.to("meta"),
    "none": lambda y: None,
    "a scalar": lambda y: y.mean(),
    "whole numbers": lambda y: y.argmax(1),
    "complex": lambda y: torch.complex(y, y),
    "a tuple of its own": lambda y: Pair(y, y),
    "a mapping in a mapping": lambda y: {"heads": {"one": y}, "name": "net"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("repair", ["moments", "reconstruct", "align"])
def test_a_repair_does_not_fail_for_what_a_network_puts_out(kind, repair):
    dense = Gives(KINDS[kind])
    assert not told(pruned(dense), dense, repair)


class Scores(Autoencoder):
    """The first number that the autoencoder decodes, and what it decodes from: one is fine whatever the other is."""

    def forward(self, x):
        return torch.relu(self.encoder(x)), super().forward(x)[:, 0]


def test_each_output_counts_also_one_number_a_sample():
    dense = Scores(tied=True)
    dense.load_state_dict(trained(tied=True).state_dict())
    model = pruned(dense)
    assert told(model, dense, "reconstruct")


def test_a_wide_output_costs_no_memory():
    dense = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 16, 1))
    found = Closer(pruned(dense), dense, one_batch(torch.randn(4, 3, 64, 64)), default_forward)._before
    assert [tuple(values.shape) for values in found] == [(4, 2048)]
    dense = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 5000))
    found = Closer(pruned(dense), dense, one_batch(torch.randn(4, 100, 8)), default_forward)._before
    assert [tuple(values.shape) for values in found] == [(100, 1667)]


def one_batch(batch):
    return Batches([batch], 1, torch.device("cpu"), task="looking")


@pytest.mark.parametrize(("size", "repair"), [(20, "moments"), (3, "reconstruct"), (64, "moments")])
def test_a_small_or_sorted_first_batch_makes_no_false_alarm_with_batchnorm(size, repair):
    dense, inputs, classes = digits_with_batchnorm()
    model, batches = pruned(dense), inputs[classes.argsort()].split(size)
    assert not told(model, dense, repair, batches[:: max(1, len(batches) // 20)][:20])
    wrong = [float((network(inputs).argmax(1) != classes).double().mean()) for network in (pruned(dense), model)]
    assert wrong[1] < wrong[0]


def test_statistics_that_lag_behind_do_not_make_fresh_ones_look_worse():
    dense, inputs, _ = digits_with_batchnorm()
    for norm in (dense[1], dense[4]):
        norm.running_mean.add_(torch.randn(64))
    model = copy.deepcopy(dense)
    prune(model, 0.2)
    assert not told(model, dense, InTurn([BatchNormStatistics()]), inputs.split(128))


def test_a_network_whose_training_has_not_begun_is_nothing_to_be_like():
    layers = (nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
    dense = nn.Sequential(*layers)
    assert Closer(pruned(dense), dense, one_batch(SAMPLES), default_forward)._before == []
    for batch in SAMPLES.split(32):
        dense(batch)
    assert len(Closer(pruned(dense), dense, one_batch(SAMPLES), default_forward)._before) == 1


def digits_with_batchnorm():
    data = load_digits()
    inputs, classes = torch.tensor(data.data).float() / 16, torch.tensor(data.target)
    model = nn.Sequential(*(layer for _ in range(2) for layer in (nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU())))
    model.append(nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(4):
        for rows in torch.randperm(len(inputs)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs[rows]), classes[rows]).backward()
            optimizer.step()
    return model.eval(), inputs, classes


def test_padding_does_not_count():
    dense, ids = nn.Sequential(nn.Embedding(50, 16, padding_idx=0), nn.Linear(16, 16)), torch.randint(1, 50, (8, 6))
    ids[::2, 3:] = 0
    found = Closer(pruned(dense), dense, one_batch(ids), default_forward)._before
    assert [len(values) for values in found] == [8 * 6 - 4 * 3]


def test_a_dense_network_that_fails_in_the_end_leaves_the_pruned_one_as_it_was():
    dense = trained(tied=False)
    model, runs = pruned(dense), []
    before = copy.deepcopy(model.state_dict())

    def forward(network, batch):
        if network is dense:
            runs.append(batch)
            if len(runs) > len(BATCHES):
                raise RuntimeError("no more")
        return network(batch)

    with pytest.raises(RuntimeError, match="no more"):
        calibrate(model, BATCHES, repair="reconstruct", reference=dense, forward=forward)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
