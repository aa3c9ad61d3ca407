import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reflow_lightning.running.bits import pack, pack_all, pack_elsewhere, unpack, unpack_each, unpack_elsewhere


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


@given(st.lists(st.booleans(), max_size=70))
def test_every_device_packs_as_the_cpu_does(bits):
    mask = torch.tensor(bits, dtype=torch.bool)
    packed = pack_elsewhere(mask)
    assert torch.equal(packed, pack(mask))
    assert torch.equal(unpack_elsewhere(packed, len(bits)), mask)


@given(st.lists(st.lists(st.booleans(), max_size=20), max_size=6))
def test_several_are_packed_without_a_gap(many):
    masks = [torch.tensor(bits, dtype=torch.bool) for bits in many]
    sizes = [len(bits) for bits in many]
    packed = pack_all(masks, sum(sizes))
    assert torch.equal(packed, pack(torch.cat([torch.zeros(0, dtype=torch.bool), *masks])))
    assert all(torch.equal(a, b) for a, b in zip(unpack_each(packed, sizes), masks, strict=True))


def test_several_that_do_not_fit_are_refused_at_once():
    with pytest.raises(ValueError, match="16 bits need 2 bytes"):
        unpack_each(torch.zeros(3, dtype=torch.uint8), [7, 9])


def test_a_bool_that_is_any_byte_counts_as_one():
    mask = torch.tensor([0, 2, 0, 255, 1], dtype=torch.uint8).view(torch.bool)
    assert pack(mask).tolist() == pack_elsewhere(mask).tolist() == [0b01011000]
