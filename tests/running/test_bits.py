import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reflow_lightning.running.bits import pack, unpack


@given(st.lists(st.booleans(), max_size=70))
def test_packing_loses_nothing_and_takes_a_bit_a_weight(bits):
    mask = torch.tensor(bits, dtype=torch.bool)
    packed = pack(mask)
    assert packed.numel() == -(-len(bits) // 8)
    assert torch.equal(unpack(packed, len(bits)), mask)


def test_the_order_of_bits_is_that_of_numpy():
    numpy = pytest.importorskip("numpy")
    mask = torch.rand(1001) > 0.5
    assert pack(mask).tolist() == numpy.packbits(mask.numpy()).tolist()


@pytest.mark.parametrize("packed", [torch.zeros(2), torch.zeros(3, dtype=torch.uint8)])
def test_what_does_not_fit_is_refused(packed):
    with pytest.raises(ValueError, match="16 bits need 2 bytes"):
        unpack(packed, 16)
