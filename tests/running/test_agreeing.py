"""What a process takes from that of rank zero; `tests/test_distributed_repairs.py` has real ones."""

import pytest
import torch
from torch import nn

from reflow_lightning.running import agreeing


def taken(module, monkeypatch, sent, others=None):
    """Takes from a process of rank zero that sends ones, and notes how many bytes travel."""

    def broadcast(buffer, source):
        assert source == 0
        sent.append(buffer.numel())
        buffer.fill_(1)

    monkeypatch.setattr(agreeing, "world_size", lambda: 2)
    monkeypatch.setattr(agreeing, "device_of_group", lambda _: torch.device("cpu"))
    monkeypatch.setattr(agreeing, "gather", lambda here: [here, here if others is None else others])
    monkeypatch.setattr(agreeing.dist, "broadcast", broadcast)
    agreeing.take_from_first({"module": module})


def test_parameters_and_statistics_of_a_module_travel_at_once(monkeypatch):
    sent, norm = [], nn.BatchNorm1d(3)
    taken(norm, monkeypatch, sent)
    assert sent == [12 * 4 + 8]
    assert all(bool((value == value.flatten()[0]).all()) for value in norm.state_dict().values())
    assert norm.num_batches_tracked == 0x0101010101010101
    assert norm.weight.requires_grad


@pytest.mark.parametrize(
    "buffer",
    [torch.ones(1, 1).expand(4, 4), torch.eye(4).to_sparse(), torch.ones(2, dtype=torch.int16), torch.tensor(3.0)],
    ids=["expanded", "sparse", "int16", "a number"],
)
def test_other_buffers_stay_as_they_are(buffer, monkeypatch):
    sent, layer = [], nn.Linear(2, 2)
    layer.register_buffer("own", buffer)
    taken(layer, monkeypatch, sent)
    assert sent == [6 * 4]
    assert layer.own is buffer


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bfloat16, torch.complex64, torch.float64], ids=str)
def test_every_type_travels(dtype, monkeypatch):
    sent, layer = [], nn.Module()
    layer.weight = nn.Parameter(torch.ones(2, 3).to(dtype), requires_grad=False)
    taken(layer, monkeypatch, sent)
    assert sent == [6 * dtype.itemsize]


@pytest.mark.parametrize("others", [{}, {"module": [("torch.float64", 2, 2), ("torch.float64", 2)]}], ids=len)
def test_a_module_that_another_process_has_not_or_in_another_type_stays(others, monkeypatch):
    sent = []
    taken(nn.Linear(2, 2), monkeypatch, sent, others)
    assert not sent


def test_what_holds_no_values_stays_away(monkeypatch):
    sent = []
    taken(nn.LazyLinear(2), monkeypatch, sent)
    taken(nn.Linear(2, 2, device="meta"), monkeypatch, sent)
    assert not sent


def test_a_single_process_keeps_what_it_has():
    layer = nn.Linear(2, 2)
    before = layer.weight.detach().clone()
    agreeing.take_from_first({"layer": layer})
    assert torch.equal(layer.weight, before)
