"""Processes that prune by data choose what one process with all of them does, and fail together."""

import pytest
import torch
import torch.distributed as dist
from scenarios.criteria import CRITERIA, SCENARIOS, parts
from scenarios.processes import outcomes, results, run

from reflow_lightning import Masks, prune

pytestmark = [pytest.mark.distributed, pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")]


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("criteria")
    run(SCENARIOS, 2, folder)
    return folder


@pytest.mark.parametrize("scenario", ["uneven_batches", "all_batches_on_the_last"])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_masks_and_weights_are_those_of_the_union(scenario, criterion, together):
    model, batches = parts()
    masks = prune(model, 0.5, criterion=criterion, batches=batches, max_batches=6)
    found = [rank[criterion] for rank in results(scenario, together)]
    for rank in found:
        assert Masks.from_state_dict(rank["masks"]) == masks
        for name, value in model.state_dict().items():
            torch.testing.assert_close(rank["state"][name], value, rtol=1e-9, atol=1e-12)
            assert torch.equal(rank["state"][name], found[0]["state"][name])  # to the last bit


def test_a_process_that_fails_raises_on_all(together):
    for rank, raised in enumerate(results("a_batch_that_breaks_on_one", together)):
        for text in raised.values():
            assert text.startswith("ZeroDivisionError" if rank == 1 else "PeerError: scoring failed on rank 1")


def test_no_batch_on_any_process_is_an_error_on_all(together):
    for outcome in outcomes("no_batches_on_any", together):
        assert "gave no batch for scoring" in outcome["error"]


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_part_counts_as_reached_if_one_process_reaches_it(criterion, together):
    found = [rank[criterion] for rank in results("a_part_that_one_process_reaches", together)]
    assert len({rank["masks"]["checksum"] for rank in found}) == 1
    assert all("of any batch reached 'part.weight'" in rank["error"] for rank in found)
