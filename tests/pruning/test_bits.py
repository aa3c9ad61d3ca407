import pytest
import torch

from reflow_lightning.pruning import bits
from reflow_lightning.pruning.bits import zero_where_pruned

HARD = [float("nan"), float("inf"), -float("inf"), -0.0, -1.0, 1e-45, 65504.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_whatever_a_number_was_it_becomes_a_positive_zero(dtype):
    values = torch.tensor(HARD, dtype=dtype)
    zero_where_pruned([values], [torch.zeros(len(HARD), dtype=torch.bool)])
    assert not values.any()
    assert not torch.signbit(values).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_what_stays_keeps_every_bit(dtype):
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    values = torch.tensor(HARD, dtype=dtype)
    before = values.view(integers).clone()
    zero_where_pruned([values], [torch.ones(len(HARD), dtype=torch.bool)])
    assert torch.equal(values.view(integers), before)


def test_equal_to_the_plain_way_on_memory_of_any_order():
    plain = torch.randn(4, 6, 5, 5)
    for values in (plain.clone(), plain.to(memory_format=torch.channels_last), plain.transpose(0, 1), plain[:, ::2]):
        mask = torch.rand(values.shape) > 0.5
        expected = values.masked_fill(~mask, 0)
        zero_where_pruned([values], [mask])
        assert torch.equal(values, expected)


def test_several_tensors_of_several_types_at_once():
    tensors = [torch.ones(2, dtype=dtype) for dtype in (torch.float32, torch.bfloat16, torch.float64)]
    zero_where_pruned(tensors, [torch.tensor([True, False])] * 3)
    assert [t.tolist() for t in tensors] == [[1.0, 0.0]] * 3


def test_no_more_than_a_piece_is_multiplied_at_once(monkeypatch):
    """torch copies the mask of each into the type of the values: of a large tensor that would be memory of its size."""
    pieces, multiply = [], bits.multiply_each
    monkeypatch.setattr(bits, "_PIECE", 100)
    monkeypatch.setattr(bits, "multiply_each", lambda a, b: pieces.extend(p.numel() for p in a) or multiply(a, b))
    for values in (
        torch.randn(30, 9),
        torch.randn(9, 30).t(),
        torch.randn(6, 2, 5, 5),
        torch.randn(101),
        torch.ones(()),
    ):
        mask = torch.rand(values.shape) > 0.5
        expected = values.masked_fill(~mask, 0)
        zero_where_pruned([values], [mask])
        assert torch.equal(values, expected)
    assert max(pieces) <= 100
