"""What was written is known without reading it, by every way in which torch writes but one."""

import pytest
import torch
from torch import nn

from reflow_lightning.running.written import Written


def replaced(tensor):
    tensor.data = tensor.data + 1


WAYS = {
    "in place": lambda tensor: tensor.add_(1),
    "copied into": lambda tensor: tensor.copy_(torch.ones(3)),
    "a part": lambda tensor: tensor[1:].mul_(2),
    "its data replaced": replaced,
    "by a foreach kernel": lambda tensor: torch._foreach_add_([tensor], 1.0),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_write_is_seen(way):
    tensors = [nn.Parameter(torch.zeros(3)) for _ in range(3)]
    written = Written(tensors)
    with torch.no_grad():
        WAYS[way](tensors[1])
    assert written.since() == [1]
    written.look([1])
    assert written.since() == []


def test_a_write_in_place_through_data_is_not_seen():
    tensor = nn.Parameter(torch.zeros(3))
    written = Written([tensor])
    tensor.data.add_(1)
    assert written.since() == []
