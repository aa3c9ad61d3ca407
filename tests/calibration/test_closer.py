import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from reflow_lightning import calibrate, prune
from reflow_lightning.calibration.closer import Likeness, likeness

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


def test_outputs_that_cannot_be_compared_do_not_count():
    dense = torch.randn(8, 3)
    assert likeness([torch.ones(8, 3), dense], [torch.ones(8, 3), dense]) == likeness([dense], [dense])
    assert likeness([torch.randn(7, 3)], [dense]) is None
    assert likeness([], []) is None


def test_padding_does_not_count():
    class Tokens(nn.Module):
        """Its outputs at padded positions are the greater, the larger its weights are."""

        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(50, 16, padding_idx=0)
            self.inner = nn.Linear(16, 16)

        def forward(self, ids):
            return torch.where((ids == 0).unsqueeze(-1), 1e3 * self.inner.weight.sum(), self.inner(self.embed(ids)))

    dense, ids = Tokens(), torch.randint(1, 50, (64, 6))
    ids[::2, 3:] = 0
    assert not told(pruned(dense), dense, "reconstruct", [ids])


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
