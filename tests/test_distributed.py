"""Processes that run together agree with one that has all the data, and fail together."""

import copy
import functools

import pytest
import torch
import torch.distributed as dist
from scenarios.functions import BATCHES, LABELLED, PLAIN, network
from scenarios.processes import outcomes, results, run
from torch import nn

from reflow_lightning import Masks, calibrate, measure_signal, prune

pytestmark = [pytest.mark.distributed, pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")]


@pytest.fixture(scope="module", params=[2, 3])
def together(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"{request.param}_processes")
    run(PLAIN, request.param, folder)
    return folder


@pytest.fixture(scope="module")
def alone():
    model = network()
    dense = copy.deepcopy(model)
    masks = prune(model, 0.5, criterion="random")
    result = calibrate(model, BATCHES, max_batches=7)
    signal = measure_signal(model, BATCHES, reference=dense, max_batches=7)
    return {"masks": masks, "state": model.state_dict(), "signal": signal, "batches": result.batches}


@pytest.mark.parametrize("scenario", ["uneven", "empty_on_the_first", "empty_on_the_last"])
def test_masks_statistics_and_signal_are_those_of_the_union(scenario, together, alone):
    found = results(scenario, together)
    for rank in found:
        assert Masks.from_state_dict(rank["masks"]) == alone["masks"]
        assert rank["batches"] == alone["batches"]
        for name, value in alone["state"].items():
            torch.testing.assert_close(rank["state"][name], value, rtol=1e-6, atol=1e-7)
            assert torch.equal(rank["state"][name], found[0]["state"][name])  # to the last bit
        assert rank["signal"]["batches"] == 7
        for row, expected in zip(rank["signal"]["layers"], alone["signal"].to_dict()["layers"], strict=True):
            assert row.pop("name") == expected.pop("name")
            assert row.pop("class_share") is expected.pop("class_share") is None  # there are no labels
            assert row == pytest.approx(expected, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("scenario", ["labelled", "labelled_everywhere"])
def test_classes_that_only_some_processes_see_are_told_apart_on_all(scenario, together):
    expected = [row.class_share for row in measure_signal(network(), LABELLED, max_batches=7).rows]
    for shares in results(scenario, together):
        assert shares == pytest.approx(expected, rel=1e-9)


def test_synchronised_layers_are_calibrated_batch_by_batch_like_others(together):
    model = network()
    calibrate(model, BATCHES, max_batches=7)
    for state in results("synchronised", together):
        for name, value in model.state_dict().items():
            torch.testing.assert_close(state[name], value, rtol=1e-6, atol=1e-7)


def test_no_batch_on_any_process_is_an_error_on_all(together):
    for outcome in outcomes("empty_everywhere", together):
        assert "gave no batch for calibration" in outcome["error"]


def test_a_process_that_fails_raises_on_all_and_all_are_as_before(together):
    for rank, found in enumerate(results("a_batch_that_breaks", together)):
        if rank == 1:
            assert found["raised"] == "ZeroDivisionError: the second batch of rank 1"
        else:
            assert found["raised"].startswith("PeerError: calibration failed on rank 1 (ZeroDivisionError:")
        assert all(torch.equal(found["before"][name], value) for name, value in found["after"].items())


def test_a_value_that_is_not_finite_names_the_layer_on_all(together):
    for found in results("a_value_that_is_not_finite", together):
        assert found["raised"].startswith("layer '1' gets values that are NaN")
        assert all(torch.equal(found["before"][name], value) for name, value in found["after"].items())


def test_every_failure_is_told_once(together):
    found = results("failures_are_told_once", together)
    for place, raised in zip(("outer", "inner", "exchange", "nowhere"), zip(*found, strict=True), strict=True):
        failing = len(found) - 1 if place == "exchange" else 0
        for rank, text in enumerate(raised):
            if place == "nowhere":
                assert text == "nothing"
            else:
                assert text.startswith(f"ValueError: {place}" if rank == failing else "PeerError: ")


def test_as_many_batches_as_needed_are_the_same_rounds_on_all_whatever_they_have(together):
    enough, too_few = zip(*results("as_many_as_needed", together), strict=True)
    rounds = enough[0]["taken"]
    assert 2 < rounds < 60
    assert [rank["taken"] for rank in enough] == [rounds, 2, 0][: len(enough)]
    assert {rank["batches"] for rank in enough} == {rounds + 2}
    assert [rank["taken"] for rank in too_few] == [3, 2, 0][: len(too_few)]
    assert {rank["batches"] for rank in too_few} == {5}
    for ranks in (enough, too_few):
        for rank in ranks:
            assert all(torch.equal(rank["state"][name], value) for name, value in ranks[0]["state"].items())


def test_a_repair_may_stop_reading_on_some_processes_only(together):
    found = results("a_repair_that_stops_early", together)
    assert set(found) == {3 + 2 * (len(found) - 1)}


def test_a_repair_that_raises_on_one_process_raises_on_all(together):
    for rank, text in enumerate(results("a_repair_that_breaks", together)):
        assert text.startswith("ZeroDivisionError" if rank == 1 else "PeerError: calibration failed on rank 1")


def test_an_error_that_is_raised_again_is_told_again(together):
    for rank, texts in enumerate(results("the_same_error_twice", together)):
        assert all(text.startswith("ZeroDivisionError" if rank == 0 else "PeerError") for text in texts)


def test_processes_that_choose_different_weights_are_told_so(together):
    for found in results("other_scores", together):
        assert found["raised"].startswith("ValueError: the processes chose different weights")
        assert all(torch.equal(found["before"][name], value) for name, value in found["after"].items())


def test_ctrl_c_ends_all_processes_wherever_they_are(together):
    for raised in results("interrupted_while_they_wait", together):
        assert set(raised) == {"KeyboardInterrupt"}


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.SyncBatchNorm])
def test_a_forward_of_the_layers_own_stays(kind):
    model = nn.Sequential(kind(1))
    calibrate(model, BATCHES, max_batches=7)
    assert "forward" not in vars(model[0])
    model[0].forward = own = functools.partial(type(model[0]).forward, model[0])
    calibrate(model, BATCHES, max_batches=7)
    assert model[0].forward is own
