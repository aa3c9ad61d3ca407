import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from reflow_lightning.pruning import Magnitude, Random
from reflow_lightning.running.shards import Part, local, part_like, part_of, rows, spread_like


@given(st.integers(0, 40), st.integers(1, 9))
def test_rows_are_shared_out_as_torch_chunk_does(total, parts):
    bounds = [rows(total, parts, index) for index in range(parts)]
    chunks = [len(chunk) for chunk in torch.arange(total).chunk(parts)]
    assert [last - first for first, last in bounds if last > first] == [size for size in chunks if size]
    assert [row for first, last in bounds for row in range(first, last)] == list(range(total))


def test_a_plain_parameter_is_its_own_whole():
    weight = nn.Parameter(torch.randn(3, 2))
    part = part_of("weight", weight)
    assert (part.shape, part.start, part.group) == ((3, 2), 0, None)
    assert part.values.data_ptr() == weight.data_ptr()
    mask = weight > 0
    assert torch.equal(part_like(part, mask), mask)
    assert local(mask) is mask
    assert spread_like(weight, mask) is mask


def test_parts_score_as_the_whole_does():
    """Random scores are drawn for all weights, so that a part has its own."""
    weight = torch.randn(700, 1000)  # more than a chunk
    for criterion in (Magnitude(), Random(3)):
        whole = criterion("w", weight).flatten()
        for first, last in (rows(700, 3, index) for index in range(3)):
            pieces = criterion.pieces("w", weight[first:last], first * 1000)
            assert torch.equal(torch.cat([piece.flatten() for piece in pieces]), whole[first * 1000 : last * 1000])


def test_a_part_may_be_empty():
    part = Part(torch.zeros(0, 4), torch.Size([2, 4]), start=8)
    assert list(Random()("w", part.values).shape) == [0, 4]
