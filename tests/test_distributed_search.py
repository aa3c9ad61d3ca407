"""Processes that search together take the same path, and fail together."""

import pytest
import torch
import torch.distributed as dist
from scenarios.processes import results, run
from scenarios.search import SEARCHES

pytestmark = [pytest.mark.distributed, pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")]


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    run(SEARCHES, 2, folder)
    return folder


def test_the_mean_score_decides_for_all(together):
    first, second = results("scores_that_differ", together)
    assert first["trials"] == second["trials"]
    assert all(score == pytest.approx(1 - 1.5 * sparsity) for sparsity, score in first["trials"])
    assert 0.55 <= first["sparsity"] == second["sparsity"] <= 0.6
    assert all(torch.equal(value, second["state"][name]) for name, value in first["state"].items())


def test_an_evaluation_that_breaks_on_one_raises_on_all_and_all_are_as_before(together):
    first, second = results("an_evaluation_that_breaks", together)
    assert second["raised"] == "ZeroDivisionError: in evaluate"
    assert first["raised"].startswith("PeerError: evaluate failed on rank 1 (ZeroDivisionError:")
    assert first["same"]
    assert second["same"]


def test_a_score_that_is_nan_on_one_is_an_error_on_all(together):
    for found in results("a_score_that_is_nan", together):
        assert found["raised"].startswith("ValueError: evaluate returned nan")
        assert found["same"]


def test_processes_with_other_weights_are_told_so(together):
    assert all(text.startswith("the processes chose different") for text in results("other_weights", together))
