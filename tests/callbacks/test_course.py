"""A schedule that was followed to its end has no effect on a later training that wants more, which a warning says."""

import warnings

import pytest
import torch

from reflow_lightning import OneShot
from reflow_lightning.callbacks.course import Course
from reflow_lightning.pruning import Masks
from reflow_lightning.schedules import Progress


def completed(final):
    course = Course(OneShot(), final)
    course.last = Progress(step=0, epoch=0, fraction=0.0)
    return {**course.state_dict(), "arguments": {"sparsity": str(final)}}


def half_of(count):
    """Masks that are short of a half by more than rounding, as ties and patterns may leave them."""
    return Masks({"weight": torch.arange(count) > 0.4 * count})


def test_it_is_silent_if_no_more_is_wanted_than_before():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Course(OneShot(), 0.5).resumed(completed(0.5)).warn_of_no_effect(half_of(100))


@pytest.mark.parametrize("state", [completed(0.4), {k: v for k, v in completed(0.4).items() if k != "arguments"}])
def test_it_tells_if_more_is_wanted(state):
    with pytest.warns(UserWarning, match="has no effect"):
        Course(OneShot(), 0.5).resumed(state).warn_of_no_effect(half_of(100))
