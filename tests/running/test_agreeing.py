"""What a process takes from that of rank zero; `tests/test_distributed_repairs.py` has real ones."""

import torch
from torch import nn

from reflow_lightning.running import agreeing


def taken(module, monkeypatch, sent):
    """Takes from a process of rank zero that sends ones, and notes the sizes and types of what travels."""

    def broadcast(buffer, source):
        assert source == 0
        sent.append((buffer.numel(), buffer.dtype))
        buffer.fill_(1)

    monkeypatch.setattr(agreeing, "world_size", lambda: 2)
    monkeypatch.setattr(agreeing, "device_of_group", lambda _: torch.device("cpu"))
    monkeypatch.setattr(agreeing.dist, "broadcast", broadcast)
    agreeing.take_from_first([module])


def test_parameters_and_buffers_of_a_module_travel_at_once_by_type(monkeypatch):
    sent, norm = [], nn.BatchNorm1d(3)
    taken(norm, monkeypatch, sent)
    assert sorted(sent, key=str) == [(1, torch.int64), (12, torch.float32)]
    assert all(bool((value == 1).all()) for value in norm.state_dict().values())
    assert norm.weight.requires_grad


def test_what_holds_no_values_stays_away(monkeypatch):
    sent = []
    taken(nn.LazyLinear(2), monkeypatch, sent)
    taken(nn.Linear(2, 2, device="meta"), monkeypatch, sent)
    assert not sent


def test_a_single_process_keeps_what_it_has():
    layer = nn.Linear(2, 2)
    before = layer.weight.detach().clone()
    agreeing.take_from_first([layer])
    assert torch.equal(layer.weight, before)
