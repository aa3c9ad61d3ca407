import gc
import threading
import warnings
from collections import UserDict
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import TensorDataset

from reflow_lightning.running.own import own


@dataclass
class Sample:
    x: object


class Meta(Tensor):
    pass


class Holds:
    def __init__(self, **values):
        vars(self).update(values)


class Clones:
    """Can't be copied but by itself."""

    def __init__(self, x):
        self.x = x

    def __deepcopy__(self, memo):
        raise RuntimeError("in C++")

    def clone(self):
        return Clones(self.x.clone())


def arrays(value):
    """All tensors and arrays that a value holds, by where they lie."""
    found, waiting, known = {}, [value], set()
    while waiting:
        value = waiting.pop()
        if id(value) in known or isinstance(value, (type, str)):
            continue
        known.add(id(value))
        if isinstance(value, (Tensor, np.ndarray)):
            found[value.data_ptr() if isinstance(value, Tensor) else value.ctypes.data] = value.tolist()
        else:
            waiting += gc.get_referents(value)
    return found


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x,
        lambda x: {"x": [x, (x + 1, "name")]},
        lambda x: UserDict(x=x),
        lambda x: Sample({"x": Sample(x)}),
        lambda x: Holds(x=x, more=[Holds(x=x)]),
        lambda x: pack_sequence([x, x]),
        lambda x: x.numpy(),
        lambda x: Clones(x),
    ],
)
def test_a_copy_is_equal_and_shares_no_memory(make):
    given = make(torch.arange(6.0).reshape(3, 2))
    copied = own(given)
    assert type(copied) is type(given)
    assert arrays(given)
    assert not arrays(given).keys() & arrays(copied).keys()
    assert sorted(map(str, arrays(given).values())) == sorted(map(str, arrays(copied).values()))


def test_what_is_held_twice_is_copied_once_and_views_are_copied_alone():
    data = torch.arange(2**16)
    x = data[:4]
    copied = own({"input": x, "target": x})
    assert copied["input"] is copied["target"]
    assert copied["input"].untyped_storage().nbytes() == x.nbytes


def test_tensors_keep_type_attributes_and_whether_they_ask_for_gradients():
    x = torch.ones(2, requires_grad=True)
    assert own(x).requires_grad
    assert own(x * 2).is_leaf
    named = torch.ones(2).as_subclass(Meta)
    named.lengths = torch.ones(1)
    copied = own([named])[0]
    assert type(copied) is Meta
    assert copied.lengths is not named.lengths
    with torch.inference_mode():
        made = torch.ones(1)
    assert not own(made).is_inference()


def test_modules_and_data_sets_are_referred_to():
    given = Holds(model=nn.Linear(1, 1), data=TensorDataset(torch.ones(1)), x=torch.ones(1))
    copied = own(given)
    assert copied.model is given.model
    assert copied.data is given.data
    assert copied.x is not given.x


def test_what_cannot_be_copied_is_named_once_and_the_rest_is_copied():
    given, told = Holds(lock=threading.Lock(), x=torch.ones(1), numbers=(i for i in ())), set()
    with pytest.warns(UserWarning, match=r"can't be copied \(generator, lock\)"):
        copied = own([given], told)[0]
    assert copied.lock is given.lock
    assert copied.x is not given.x
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own([given], told)
