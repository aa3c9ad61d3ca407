import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from reflow_lightning import prune
from reflow_lightning.pruning import ColumnSum, KeptColumns, make_masks


class Factors(nn.Module):
    """Two matrices of which columns are pruned."""

    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = nn.Parameter(first), nn.Parameter(second)


def columns(mask):
    assert torch.equal(mask, mask[:1].expand_as(mask)), "a column is cut in pieces"
    return mask[0].nonzero()[:, 0].tolist()


@given(st.integers(1, 6), st.integers(1, 8), st.integers(1, 8), st.data())
@settings(deadline=None)
@pytest.mark.filterwarnings("ignore:.*leaves no weight.*")
def test_the_columns_of_the_largest_sums_stay_whole(rows, width, other_width, data):
    kept, other_kept = data.draw(st.integers(1, width)), data.draw(st.integers(1, other_width))
    model = Factors(torch.randn(rows, width), torch.randn(rows + 1, other_width))
    sums = [w.detach().abs().sum(0) for w in (model.first, model.second)]
    total = rows * width + (rows + 1) * other_width
    masks = make_masks(
        model,
        1 - (rows * kept + (rows + 1) * other_kept) / total,
        criterion=ColumnSum(),
        allocation=KeptColumns({"first": kept, "second": other_kept}),
        include=("first", "second"),
    )
    assert columns(masks["first"]) == sorted(sums[0].argsort(descending=True)[:kept].tolist())
    assert columns(masks["second"]) == sorted(sums[1].argsort(descending=True)[:other_kept].tolist())


def test_columns_of_equal_sums_are_not_cut_in_pieces():
    model = nn.Linear(5, 3)
    nn.init.ones_(model.weight)
    masks = prune(model, 0.4, criterion=ColumnSum(), allocation=KeptColumns({"weight": 3}))
    assert columns(masks["weight"]) == [2, 3, 4]


def test_a_sparsity_that_the_columns_do_not_have_is_answered_with_theirs():
    model = nn.Linear(10, 4)
    with pytest.raises(ValueError, match=r"keeps 12 of 40 weights, but the sparsity leaves 20: use sparsity=0\.700000"):
        prune(model, 0.5, criterion=ColumnSum(), allocation=KeptColumns({"weight": 3}))


@pytest.mark.parametrize("columns", [{"weight": 11}, {"weight": -1}, {"other": 3}])
def test_a_matrix_without_a_fitting_number_of_columns_is_named(columns):
    with pytest.raises(ValueError, match=r"columns for 'weight' \(4, 10\): name it, with at most so many"):
        prune(nn.Linear(10, 4), 0.5, criterion=ColumnSum(), allocation=KeptColumns(columns))


def test_only_matrices_have_columns():
    with pytest.raises(ValueError, match=r"'weight' \(4, 2, 3\) is no matrix"):
        prune(nn.Conv1d(2, 4, 3), 0.5, criterion=ColumnSum())
