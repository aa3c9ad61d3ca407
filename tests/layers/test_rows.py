import pytest
import torch
from torch import nn

from reflow_lightning.layers.rows import RowsWatch, are_paired
from reflow_lightning.running.hooks import Call

X = torch.arange(12.0).view(6, 2)


def number(pick, model=None):
    watch = RowsWatch(model or nn.Identity())
    with watch:
        return watch.of(pick(X.clone()))


PICKS = {
    "a mask": lambda x, rows: x[torch.zeros(6, dtype=torch.bool).index_fill(0, torch.tensor(rows), True)],
    "an index": lambda x, rows: x[torch.tensor(rows)],
    "index_select": lambda x, rows: x.index_select(0, torch.tensor(rows)),
    "gather": lambda x, rows: x.gather(0, torch.tensor(rows)[:, None].expand(-1, 2)),
    "numbers": lambda x, rows: torch.stack([x[row] for row in rows]),
    "a slice": lambda x, rows: x[rows[0] : rows[0] + 2],
    "narrow": lambda x, rows: x.narrow(0, rows[0], 2),
    "sizes": lambda x, rows: x.split([rows[1], 6 - rows[1]])[0],
    "repetition": lambda x, rows: x.repeat_interleave(torch.tensor([1, 1, 1, 1, *rows]), 0),
}


@pytest.mark.parametrize("name", PICKS)
def test_equal_picks_have_equal_numbers_and_others_have_others(name):
    def one(x):
        return (2 * PICKS[name](x, [2, 4])).relu().mean(1)

    def other(x):
        return (2 * PICKS[name](x, [1, 5])).relu().mean(1)

    assert number(one) == number(one) != 0
    assert number(one) != number(other)


def test_what_only_looks_at_a_tensor_leaves_its_number():
    def looked_at(x):
        some = x[torch.tensor([1])]
        torch.equal(x, some)
        return x * x.sum().item() + x.numel()

    assert number(looked_at) == 0


def test_the_order_of_rows_counts():
    assert number(lambda x: x[torch.tensor([0, 3])]) != number(lambda x: x[torch.tensor([3, 0])])
    assert number(lambda x: x[torch.tensor([0, 3])]) != number(lambda x: x[torch.tensor([1, 2])])


def test_without_a_pick_there_is_no_number():
    assert number(lambda x: nn.functional.linear(x.relu(), torch.ones(3, 2)).view(3, 6).softmax(1)) == 0


def test_what_is_put_back_to_its_place_has_none():
    rows = torch.tensor([1, 4])

    def written(x):
        out = torch.zeros(6, 2)
        out[rows] = 2 * x[rows]
        return out

    assert number(written) == 0
    assert number(lambda x: torch.zeros(6, 2).index_add(0, rows, x[rows])) == 0
    assert number(lambda x: torch.zeros(6, 2).scatter_(0, rows[:, None].expand(-1, 2), x[rows])) == 0


@pytest.mark.parametrize("rows", [[1, 4], [2, 5]])
def test_places_among_what_was_picked_are_none_of_the_batch(rows):
    def levels(x):
        boxes = x[torch.tensor(rows)]  # as a detector pools its boxes, level by level
        out, small = torch.zeros(2, 2), boxes[:, 0] < 6
        out[small], out[~small] = 2 * boxes[small], 3 * boxes[~small]
        return out

    other = 3 if rows[0] == 1 else 1
    assert number(levels) != 0
    assert number(levels) != number(lambda x: levels(x[torch.tensor([other] * 6)]))


def test_an_index_that_is_picked_from_numbers_is_an_index():
    mask = torch.tensor([True, False] * 3)

    def written(x):
        rows = torch.arange(6)[mask]
        return torch.zeros(6, 2).index_add(0, rows, x[rows])

    assert number(written) == 0


def test_codes_of_a_book_and_scores_of_a_gate_are_no_rows():
    book = nn.Embedding(6, 2)
    assert number(lambda x: book.weight[torch.tensor([1, 3])], book) == 0
    assert number(lambda x: x.gather(1, torch.tensor([[0], [1], [0], [1], [0], [1]]))) == 0
    assert number(lambda x: torch.take_along_dim(x, torch.tensor([[0], [1], [0], [1], [0], [1]]), dim=-1)) == 0


def test_calls_are_paired_if_number_shape_and_picks_are_equal():
    watch, other = RowsWatch(nn.Identity()), RowsWatch(nn.Identity())
    with watch:
        some = [Call((), {}, X[torch.tensor([0, 1])])]
    with other:
        same, others = ([Call((), {}, X[torch.tensor(rows)])] for rows in ([0, 1], [0, 2]))
    assert are_paired(some, watch, same, other)
    assert not are_paired(some, watch, others, other)
    assert not are_paired(some, watch, [], other)
