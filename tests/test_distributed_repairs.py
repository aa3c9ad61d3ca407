"""Processes that repair by writing weights write the same, close to what one process with all batches does."""

import pytest
import torch
import torch.distributed as dist
from scenarios.processes import results, run
from scenarios.repairs import ALIGN, NAMES, REPAIRS, SCENARIOS, parts, repaired
from scenarios.thinned import plain

from reflow_lightning.calibration.compared import Compared
from reflow_lightning.calibration.pace import Pace
from reflow_lightning.calibration.recipes import recipe

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo"),
    pytest.mark.filterwarnings("ignore:calibrate left alone"),
]


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repairs")
    run(SCENARIOS, 2, folder)
    return folder


def distance(a, b):
    return float(torch.stack([(a[key].double() - value.double()).norm() for key, value in b.items()]).norm())


@pytest.mark.parametrize("scenario", ["uneven_batches", "all_batches_on_the_last"])
@pytest.mark.parametrize("repair", [*REPAIRS, "reselect"])
@pytest.mark.parametrize("name", NAMES)
def test_weights_are_the_same_on_all_processes_and_close_to_those_of_the_union(name, repair, scenario, together):
    alone = repaired(name, repair, parts(name)[2])
    found = [rank[f"{name} {repair}"] for rank in results(scenario, together)]
    for rank in found:
        assert rank["undone"]
        assert rank["repaired"] == alone["repaired"] == found[0]["repaired"]
        for key, value in alone["state"].items():
            assert torch.equal(rank["state"][key], found[0]["state"][key])  # to the last bit
            if repair == "reconstruct" or scenario == "all_batches_on_the_last":
                torch.testing.assert_close(rank["state"][key], value, rtol=1e-3, atol=1e-4)
        # On its way a correction for moments rests on what one process has seen.
        pruned = dict(parts(name)[0].state_dict())
        assert distance(rank["state"], alone["state"]) < 0.15 * distance(pruned, alone["state"])


@pytest.mark.parametrize("scenario", ["uneven_batches", "all_batches_on_the_last"])
@pytest.mark.parametrize("name", NAMES)
def test_alignment_steps_by_the_mean_gradient_of_all_processes(name, scenario, together):
    model, dense, batches = parts(name)
    compared = Compared(model, dense, plain, logits=1.0)
    before, found = compared.mean_loss(batches), [rank[f"{name} {ALIGN}"] for rank in results(scenario, together)]
    for rank in found:
        assert rank["undone"]
        assert all(torch.equal(rank["state"][key], value) for key, value in found[0]["state"].items())
        model.load_state_dict(rank["state"])
        assert compared.mean_loss(batches) < 0.8 * before


def test_as_many_batches_as_needed_write_the_same_on_all_processes(together):
    first, second = results("as_many_as_needed", together)
    for repair, found in first.items():
        assert 2 < found["batches"] < 92  # of both
        assert second[repair]["batches"] == found["batches"]
        assert all(torch.equal(second[repair]["state"][key], value) for key, value in found["state"].items())


def test_processes_whose_devices_round_differently_end_with_the_same_bits(together):
    first, second = results("devices_that_round_differently", together)
    for name, found in first.items():
        assert found["undone"]
        assert second[name]["undone"]
        assert all(torch.equal(second[name]["state"][key], value) for key, value in found["state"].items()), name


def test_the_zeros_of_the_first_process_count_for_all(together):
    first, second = results("zeros_that_differ", together)
    for repair, found in first.items():
        assert found["after"] == found["before"]
        assert all(torch.equal(second[repair]["state"][key], value) for key, value in found["state"].items()), repair


def test_a_process_that_fails_raises_on_all_and_all_are_as_before(together):
    for rank, raised in enumerate(results("a_forward_pass_that_breaks_on_one", together)):
        for case, text in raised.items():
            if rank == 1:
                assert text == "ZeroDivisionError: on rank 1", case
            else:
                assert text.startswith("PeerError: "), case
                assert "failed on rank 1 (ZeroDivisionError: on rank 1)" in text


def test_a_value_that_is_not_finite_is_an_error_on_all(together):
    for raised in results("a_value_that_is_not_finite_on_one", together):
        assert all("NaN" in text for text in raised.values())
        assert "ValueError: " in raised.pop(str(ALIGN))  # of the process that has the batch; the others are told
        assert all(text.startswith("ValueError: ") for text in raised.values())


def test_no_batch_on_any_process_is_an_error_on_all(together):
    for raised in results("no_batch_on_any", together):
        assert all("gave no batch for calibration" in text for text in raised.values())


def test_a_process_that_fails_in_a_later_pruning_raises_on_all(together):
    first, second = results("a_later_pruning_that_breaks_on_one", together)
    assert second == "ZeroDivisionError: on rank 1"
    assert first.startswith("PeerError: ")
    assert "failed on rank 1 (ZeroDivisionError: on rank 1)" in first


def test_a_network_that_ddp_wraps_takes_other_numbers_of_batches_on_each_process(together):
    first, second = results("wrapped_in_ddp", together)
    for repair, found in first.items():
        assert found["synced"]
        assert all(torch.equal(value, second[repair]["state"][key]) for key, value in found["state"].items()), repair


def test_processes_choose_the_same_repair_by_the_slowest(together):
    first, second = results("the_best_in_a_time", together)
    assert first["recipe"] == second["recipe"] == recipe(100, Pace(1.0, 0.0, 5)).words
    assert all(torch.equal(value, second["state"][key]) for key, value in first["state"].items())
