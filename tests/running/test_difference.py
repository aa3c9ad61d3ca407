import math
from dataclasses import dataclass

import pytest
import torch

from reflow_lightning.running.difference import relative_difference

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([2.0, -8.0], [2.0, -8.0], 0.0),
        ([2.0, -8.0], [4.0, -8.0], 0.25),
        ([2.0, -8.0], [2.0, 8.0], 2.0),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([0.0, 0.0], [0.0, 1e-9], INF),
        ([NAN, INF], [NAN, INF], 0.0),
        ([1.0, NAN], [1.0, 1.0], INF),
        ([1.0, 1.0], [1.0, NAN], INF),
        ([1.0, 1.0], [1.0, INF], INF),
        ([], [], 0.0),
    ],
)
def test_it_is_the_largest_over_the_largest_value_before(before, after, expected):
    assert relative_difference(torch.tensor(before), torch.tensor(after)) == expected


def test_of_several_tensors_it_is_the_largest():
    before = {"logits": torch.tensor([1.0, 4.0]), "rest": [torch.tensor([100.0])]}
    after = {"logits": torch.tensor([1.0, 3.0]), "rest": [torch.tensor([101.0])]}
    assert relative_difference(before, after) == 0.25


def test_outputs_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"shapes \[\(2,\)\] and \[\(3,\)\] can't be compared"):
        relative_difference(torch.zeros(2), torch.zeros(3))


def test_imaginary_parts_count():
    assert relative_difference(torch.tensor([4.0 + 1.0j]), torch.tensor([4.0 + 2.0j])) == 0.25


def test_the_scale_may_be_that_of_other_outputs():
    before, after = {"a": torch.tensor([0.0]), "b": 2}, {"a": torch.tensor([1.0]), "b": 2}
    assert relative_difference(before, after) == math.inf
    assert relative_difference(before, after, {"a": torch.tensor([4.0]), "b": 2}) == 0.25


@dataclass
class Out:
    logits: torch.Tensor


class Plain:
    def __init__(self, logits):
        self.logits = logits


def test_tensors_in_a_dataclass_are_compared():
    assert relative_difference(Out(torch.tensor([2.0, -8.0])), Out(torch.tensor([4.0, -8.0]))) == 0.25


def test_an_output_without_any_tensor_is_an_error_and_no_agreement():
    with pytest.raises(ValueError, match="nothing can be compared in an output of type Plain"):
        relative_difference(Plain(torch.ones(1)), Plain(torch.zeros(1)))
