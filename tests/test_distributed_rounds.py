"""Processes that train together judge their rounds alike, and return to the same network."""

import pytest
import torch
import torch.distributed as dist
from scenarios.processes import results, run
from scenarios.rounds import ROUNDS

pytestmark = [pytest.mark.distributed, pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rounds")
    run(ROUNDS, 2, folder)
    return folder


@pytest.mark.parametrize("scenario", ["rank_zero_decides", "rounds_of_a_spread_network"])
def test_rank_zero_decides_for_all_resumed_or_not(folder, scenario):
    found = results(scenario, folder)
    first = found[0]["whole"]
    assert (first["kept"], first["returned"]) == ([True, True, False], 1)
    assert first["steps"] == 3 * 2  # three of five epochs, of two batches in each process
    for rank in found:
        assert len(rank["resumed"]) == 2
        for ended in (rank["whole"], *rank["resumed"]):
            assert (ended["kept"], ended["returned"], ended["steps"]) == (first["kept"], 1, first["steps"])
            assert torch.equal(ended["masks"]["bits"], first["masks"]["bits"])
            assert all(torch.equal(value, first["weights"][name]) for name, value in ended["weights"].items())


def test_a_metric_that_rank_zero_lacks_is_an_error_on_all(folder):
    for text in results("one_process_lacks_the_metric", folder):
        assert "was not logged in the validation" in text
