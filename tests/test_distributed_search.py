"""Processes that search together take the same path, and fail together."""

import pytest
import torch
import torch.distributed as dist
from scenarios.processes import results, run
from scenarios.search import SEARCHES, WAYS, searched_by_units
from scenarios.units import batches, deep

from reflow_lightning import Masks

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


@pytest.mark.filterwarnings("ignore:no sparsity that was tried is within")
@pytest.mark.parametrize("name", WAYS)
def test_a_network_that_is_spread_over_processes_goes_as_sparse_as_a_whole_one(name, together):
    expected = searched_by_units(deep(), batches(), **WAYS[name])
    for found in results("spread_by_fully_shard", together):
        spread = found["found"][name]
        assert spread["found"] == pytest.approx(expected["found"], abs=1e-4)
        assert spread["trials"] == [pytest.approx(trial, abs=1e-4) for trial in expected["trials"]]
        assert spread["now"] == pytest.approx(spread["found"][1], abs=1e-6)
        assert Masks.from_state_dict(spread["masks"]) == expected["masks"]


def test_a_network_that_is_spread_is_dense_again_if_an_evaluation_breaks(together):
    for found in results("spread_by_fully_shard", together):
        assert "ZeroDivisionError" in found["raised"]
        assert found["after"] == pytest.approx(1, abs=1e-6)
