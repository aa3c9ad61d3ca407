"""A probe reads a few values of each tensor: of a whole one it sees every change, and of a zero what is masked."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reflow_lightning.pruning.probing import Probe


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=3), st.floats(0, 1), st.integers(0, 99))
def test_a_tensor_that_moves_as_a_whole_is_seen(shape, share, seed):
    random = torch.Generator().manual_seed(seed)
    mask = torch.rand(shape, generator=random) < share
    tensors = [torch.zeros(shape), torch.zeros(shape)]
    probe = Probe(tensors, [mask, mask], range(2))
    tensors[1].add_(0.5)
    assert probe.nonzero() == ([] if mask.all() else [1])


def test_weights_that_stay_are_not_looked_at():
    weight = torch.zeros(100, 100)
    mask = torch.zeros(100, 100, dtype=torch.bool)
    mask[:, ::2] = True
    probe = Probe([weight], [mask], [0])
    weight[:, ::2] = 1.0
    assert probe.nonzero() == []


def test_few_values_are_read_of_a_large_tensor():
    probe = Probe([torch.zeros(1000, 1000)], [torch.zeros(1000, 1000, dtype=torch.bool)], [0])
    assert sum(value.numel() for value in probe.values()) == 2


def test_any_layout_and_any_type_can_be_read():
    image = torch.zeros(4, 3, 8, 8).to(memory_format=torch.channels_last)
    half = torch.zeros(6, dtype=torch.bfloat16)
    probe = Probe([image, half], [torch.zeros_like(image, dtype=torch.bool), torch.zeros(6, dtype=torch.bool)], [0, 1])
    image.add_(1)
    half.add_(1)
    assert probe.nonzero() == [0, 1]
    assert (
        Probe([torch.zeros(()), torch.zeros(0)], [torch.tensor(False), torch.zeros(0).bool()], [0, 1]).nonzero() == []
    )
