"""Processes that measure rectifiers, and prune by them, agree with one that has all the data, and fail together."""

import pytest
import torch.distributed as dist
from scenarios.entropy import BRANCHES, SCENARIOS, Branching
from scenarios.functions import BATCHES, network
from scenarios.processes import outcomes, results, run

from reflow_lightning import Masks, prune
from reflow_lightning.signal import measure_entropy

pytestmark = [pytest.mark.distributed, pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")]


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("entropy")
    run(SCENARIOS, 2, folder)
    return folder


@pytest.mark.parametrize("scenario", ["uneven", "all_on_the_last"])
def test_entropies_and_masks_are_those_of_the_union(scenario, together):
    report = measure_entropy(network(), BATCHES, max_batches=7).to_dict()
    masks = prune(network(), 0.5, allocation="entropy", batches=BATCHES, max_batches=7)
    for found in results(scenario, together):
        assert found["report"] == report  # counts are whole numbers
        assert Masks.from_state_dict(found["masks"]) == masks


def test_layers_that_only_some_processes_reach_are_rows_on_all(together):
    expected = measure_entropy(Branching(), BRANCHES, max_batches=2).to_dict()["layers"]
    first, second = (found["layers"] for found in results("other_layers_on_each", together))
    assert first == second
    by_name = {row["layer"]: row for row in first}
    assert by_name == {row["layer"]: row for row in expected}
    assert set(by_name) == {"a", "b", "c"}


def test_a_process_that_fails_raises_on_all(together):
    for rank, raised in enumerate(results("a_batch_that_breaks_on_one", together)):
        for task, text in zip(("entropy measurement", "allocation"), raised, strict=True):
            assert text.startswith("ZeroDivisionError" if rank == 1 else f"PeerError: {task} failed on rank 1")


def test_no_batch_on_any_process_is_an_error_on_all(together):
    for outcome in outcomes("no_batches_on_any", together):
        assert "gave no batch for entropy measurement" in outcome["error"]


def test_weights_that_are_spread_over_processes_are_measured_and_pruned_as_whole_ones(together):
    model = network()
    report = measure_entropy(model, BATCHES, max_batches=7).to_dict()
    masks = prune(model, 0.5, allocation="entropy", batches=BATCHES, max_batches=7)
    for found in results("spread_over_processes", together):
        assert found["report"] == report
        assert Masks.from_state_dict(found["masks"]) == masks
