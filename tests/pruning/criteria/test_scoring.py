"""What is said of a criterion that can't be used."""

import functools

import pytest
import torch

from reflow_lightning.pruning.criteria.scoring import scores_of


def of_weight(weight):
    return weight.abs()


def not_finite(name, weight):
    return torch.full_like(weight, float("nan"))


class Ours:
    def __call__(self, model, batches, forward):
        return {}


def test_it_must_take_a_name_and_a_weight():
    with pytest.raises(
        TypeError, match=r"criterion of_weight can't be called as criterion\(name, weight\).*takes 1 positional"
    ):
        scores_of(of_weight, "w", torch.ones(2))
    with pytest.raises(TypeError, match=r"criterion <.*Ours object> can't be called .*missing.*'forward'"):
        scores_of(Ours(), "w", torch.ones(2))


def test_an_error_within_it_is_told_as_it_is():
    def fails(name, weight):
        raise TypeError("mine")

    with pytest.raises(TypeError, match=r"^mine$"):
        scores_of(fails, "w", torch.ones(2))


def test_it_is_named_without_an_address():
    with pytest.raises(ValueError, match=r"^criterion not_finite gave NaN or infinite scores for 'w'"):
        scores_of(not_finite, "w", torch.ones(2))


def test_what_counts_is_whether_the_call_works():
    @functools.wraps(of_weight)
    def criterion(name, weight):
        return of_weight(weight)

    assert torch.equal(scores_of(criterion, "w", -torch.ones(2)), torch.ones(2))


def test_what_is_not_written_in_python_may_be_one():
    with pytest.raises(TypeError, match=r"criterion .*mul can't be called as criterion\(name, weight\)"):
        scores_of(torch.mul, "w", torch.ones(2))
    with pytest.raises(ValueError, match="must return one floating-point score a weight"):
        scores_of(print, "w", torch.ones(2))
