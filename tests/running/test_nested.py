from collections import OrderedDict, UserDict, deque, namedtuple
from dataclasses import dataclass, field
from types import MappingProxyType

import pytest
import torch
from lightning.fabric.utilities import move_data_to_device
from torch.nn.utils.rnn import pack_sequence

from reflow_lightning.running.batches import move
from reflow_lightning.running.nested import mapped, tensors

Pair = namedtuple("Pair", "x y")


@dataclass
class Sample:
    x: object
    made: object = field(init=False, default=None)

    def __post_init__(self):
        self.made = torch.zeros(1)


@dataclass(frozen=True)
class Frozen:
    x: object


class InPlace:
    def __init__(self, x):
        self.x = x

    def to(self, device):
        self.x = self.x.to(device)


class Refuses(OrderedDict):
    def update(self, *_):
        raise NotImplementedError("set the items, as in the outputs of transformers")


def parts(batch):
    """Types of containers and devices of tensors, in order."""
    if isinstance(batch, torch.Tensor):
        return batch.device.type
    if isinstance(batch, (dict, UserDict, MappingProxyType)):
        return type(batch), {key: parts(value) for key, value in batch.items()}
    if isinstance(batch, (tuple, list, deque)):
        return type(batch), [parts(value) for value in batch]
    return (type(batch), {k: parts(v) for k, v in vars(batch).items()}) if hasattr(batch, "__dict__") else batch


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x,
        lambda x: {"x": x, "name": "a", 3: None},
        lambda x: UserDict(x=x),
        lambda x: Refuses(x=x),
        lambda x: MappingProxyType({"x": x}),
        lambda x: [x, (x, Pair(x, 1))],
        lambda x: deque([x, x]),
        lambda x: Sample(x),
        lambda x: {"deep": [Sample({"x": x})]},
        lambda x: InPlace(x),
        lambda x: [Sample(InPlace(x))],
        lambda x: pack_sequence([x, x]),
    ],
)
def test_batches_are_moved_as_lightning_does(make):
    meta = torch.device("meta")
    assert parts(move(make(torch.ones(3)), meta)) == parts(move_data_to_device(make(torch.ones(3)), meta))


def test_a_frozen_dataclass_is_moved_which_lightning_refuses():
    given = Frozen(torch.ones(1))
    assert move(given, torch.device("meta")).x.is_meta
    assert not given.x.is_meta


def test_containers_are_new_and_classes_are_no_leaves():
    given = {"x": [torch.zeros(1)], "kind": torch.nn.Linear}
    changed = mapped(lambda x: x + 1, given)
    assert given["x"][0].item() == 0
    assert changed["x"][0].item() == 1
    assert move(given, torch.device("meta"))["kind"] is torch.nn.Linear
    assert [int(t) for t in tensors((torch.tensor(1), {"a": Sample(torch.tensor(2))}))] == [1, 2]
