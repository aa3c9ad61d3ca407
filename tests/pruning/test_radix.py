from itertools import chain

import torch
from hypothesis import given
from hypothesis import strategies as st

from reflow_lightning.pruning.radix import Pool, chosen, threshold

keys = st.lists(st.integers(-(2**31), 2**31 - 1) | st.integers(-2, 2), max_size=30)


def int_keys(numbers):
    return torch.tensor(numbers, dtype=torch.int32)


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=40))
def test_what_is_chosen_is_what_indexing_gives(pairs):
    values, marks = int_keys([value for value, _ in pairs]), torch.tensor([mark for _, mark in pairs], dtype=torch.bool)
    assert torch.equal(chosen(values, marks), values[marks])


@given(st.lists(keys, min_size=1, max_size=3).filter(any), st.data())
def test_the_threshold_is_the_kth_largest_key(tensors, data):
    flat = sorted(chain.from_iterable(tensors), reverse=True)
    keep = data.draw(st.integers(1, len(flat)))
    pools = [Pool(lambda t=t: int_keys(t).split(4)) for t in tensors]
    found = threshold(pools, keep, torch.zeros(len(tensors), dtype=torch.int64), torch.float32)
    assert found.key == flat[keep - 1]
    assert found.above.tolist() == [sum(key > found.key for key in t) for t in tensors]
    assert found.equal.tolist() == found.here.tolist() == [t.count(found.key) for t in tensors]


def test_keys_that_are_known_to_be_above_count():
    pools = [Pool(lambda: [int_keys([1, 2, 3])], above=4)]
    assert threshold(pools, 6, torch.tensor([0]), torch.float32).key == 2
