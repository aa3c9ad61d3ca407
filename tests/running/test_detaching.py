import functools
import io
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from reflow_lightning.running.detaching import Detaching
from reflow_lightning.running.fresh import fresh, live_parts


class State:
    __slots__ = ("__private", "numbers")

    def __init__(self):
        self.numbers, self.__private = [1, [2]], {"a": 1}

    def change(self):
        self.numbers[1].append(3)
        self.__private["a"] += 1
        return self.numbers, self.__private


def counting():
    count, seen = 0, []

    def call():
        nonlocal count
        count += 1
        seen.append(count)
        return count, list(seen)

    return call


class Module(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.buffer = nn.Linear(1, 1), []

    def change(self):
        self.buffer.append(1)
        return len(self.buffer)


def bound(of):
    return functools.partial(type(of).change, of)


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (State, State.change),
        (counting, lambda call: call()),
        (lambda: Module().change, lambda call: call()),
        (lambda: bound(State()), lambda call: call()),
        (lambda: random.Random(1), lambda g: g.random()),
        (lambda: np.random.default_rng(1), lambda g: g.random()),
        (lambda: torch.Generator().manual_seed(1), lambda g: float(torch.rand(1, generator=g))),
        (lambda: {"a": np.zeros(2)}, lambda d: float(np.add(d["a"], 1, out=d["a"])[0])),
    ],
)
def test_using_a_copy_changes_nothing_of_the_original(make, change):
    given = make()
    copied, live = (copies := Detaching()).of(given), copies.live
    expected = [str(change(copied)) for _ in range(2)]
    assert [str(change(given)) for _ in range(2)] == expected
    assert not live


def test_what_is_held_twice_or_holds_itself_is_copied_once():
    state = State()
    ring = {"a": state, "b": [state]}
    ring["itself"] = ring
    copied = Detaching().of(ring)
    assert copied["a"] is copied["b"][0] is not state
    assert copied["itself"] is copied


def test_large_data_and_weights_are_shared():
    data, module, paths = torch.empty(2**24 + 1), Module(), [["path"] for _ in range(2000)]
    copied = Detaching().of({"data": data, "module": module, "paths": paths})
    assert copied["data"] is data
    assert copied["module"].net is module.net
    assert copied["paths"] is not paths
    assert copied["paths"][0] is paths[0]


class Stream(IterableDataset):
    def __init__(self, numbers):
        self.numbers = numbers

    def __iter__(self):
        return iter([torch.tensor([float(next(self.numbers))])])


def test_what_changes_as_it_is_read_and_cannot_be_copied_is_told():
    assert live_parts(DataLoader(Stream(i for i in range(9)))) == ["generator"]
    assert live_parts(DataLoader(Stream(i for i in range(9)), num_workers=1)) == []
    assert live_parts(DataLoader([io.StringIO("a")])) == ["StringIO"]
    assert live_parts(DataLoader([1, 2])) == []


def test_looking_for_them_reads_nothing():
    class Own(Stream):
        def __iter__(self):
            self.place = 0
            return self

        def __next__(self):
            self.place += 1
            return self.place

    dataset = Own(None)
    running = iter(dataset)
    assert next(running) == 1
    assert live_parts(DataLoader(dataset)) == ["Own"]
    with pytest.raises(TypeError, match="its own iterator"):
        fresh(DataLoader(dataset), shuffle=True, seed=0)
    assert next(running) == 2
