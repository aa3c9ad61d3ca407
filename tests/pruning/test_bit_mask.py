import copy

import torch
from hypothesis import given
from hypothesis import strategies as st

from reflow_lightning.pruning.bit_mask import BitMask

shapes = st.lists(st.integers(0, 7), max_size=4)


@given(shapes, st.integers(0, 99))
def test_a_mask_comes_back_as_it_was_given_for_a_bit_a_weight(shape, seed):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) > 0.5
    bits = BitMask.of(mask)
    assert bits.shape == mask.shape
    assert torch.equal(bits.bools(), mask)
    assert bits.bits.nbytes == -(-mask.numel() // 8)


def test_a_mask_in_another_order_of_memory_is_the_same():
    mask = torch.rand(2, 3, 4, 5) > 0.5
    other = mask.to(memory_format=torch.channels_last)
    assert BitMask.of(mask).equals(BitMask.of(other))
    assert torch.equal(BitMask.of(other).bools(), mask)


def test_what_is_done_to_the_given_mask_changes_nothing():
    mask = torch.tensor([True, False, True])
    bits = BitMask.of(mask)
    mask.fill_(False)
    bits.bools().fill_(True)
    assert bits.bools().tolist() == [True, False, True]


def test_masks_of_other_shapes_differ_though_their_bits_are_equal():
    mask = torch.ones(6, dtype=torch.bool)
    assert not BitMask.of(mask).equals(BitMask.of(mask.view(2, 3)))
    assert BitMask.of(mask).equals(copy.deepcopy(BitMask.of(mask)))
