import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reflow_lightning.cost.compressed import compress, expand
from reflow_lightning.running.bits import INTEGERS


def numbers_of(width):
    info = torch.iinfo(INTEGERS[width])
    special = st.sampled_from([0, 0, 0, 0, 1, -1, info.min, info.max])
    return st.lists(special | st.integers(info.min, info.max), max_size=80)


@pytest.mark.parametrize("width", INTEGERS)
@given(data=st.data())
def test_every_bit_comes_back(width, data):
    numbers = torch.tensor(data.draw(numbers_of(width)), dtype=INTEGERS[width])
    found = expand(compress(numbers))
    assert found.dtype == numbers.dtype
    assert torch.equal(found, numbers)


@pytest.mark.parametrize(
    ("kept", "kind"), [(1000, "dense"), (980, "dense"), (500, "mask"), (100, "mask"), (9, "indices")]
)
def test_the_smallest_of_three_ways_is_chosen(kept, kind):
    numbers = torch.zeros(1000, dtype=torch.int32)
    numbers[torch.randperm(1000)[:kept]] = 5
    stored = compress(numbers)
    assert stored["kind"] == kind
    assert sum(t.nbytes for t in stored.values() if isinstance(t, torch.Tensor)) <= min(4000, 125 + 4 * kept, 8 * kept)


def test_negative_zeros_cost_a_bit_a_number_and_not_a_number_each():
    """As multiplying negative weights with a mask makes them."""
    values = -torch.ones(1000) * (torch.arange(1000) % 10 == 0)
    stored = compress(values.view(torch.int32))
    assert sum(t.nbytes for t in stored.values() if isinstance(t, torch.Tensor)) == 125 + 125 + 400
    assert torch.equal(expand(stored), values.view(torch.int32))


@pytest.mark.parametrize("kind", ["sparse", None])
def test_another_kind_is_refused(kind):
    with pytest.raises(ValueError, match="must be 'dense', 'mask' or 'indices'"):
        expand({"kind": kind, "size": 1, "values": torch.ones(1)})
