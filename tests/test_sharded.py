"""Models under `fully_shard`: the same masks and statistics as of a whole model, and no weight is sent."""

import copy

import pytest
import torch
import torch.distributed as dist
from scenarios.functions import BATCHES
from scenarios.processes import results, run
from scenarios.sharded import CASES, SHARDED, plain

from reflow_lightning import Masks, calibrate, measure_signal, prune

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo"),
    pytest.mark.filterwarnings("ignore:.*leaves no weight.*"),
]


@pytest.fixture(scope="module", params=[2, 3])
def processes(request):
    return request.param


@pytest.fixture(scope="module")
def folder(processes, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"{processes}_parts")
    run(SHARDED, processes, folder)
    return folder


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("case", CASES)
def test_the_masks_are_those_of_the_whole_model(case, dtype, folder):
    """Ties included: bfloat16 has many."""
    model = plain(dtype)
    masks = prune(model, **CASES[case])
    further = prune(model, **CASES[case] | {"sparsity": 0.95}) if case != "floors" else masks
    for rank in results("masks_of_every_kind", folder):
        found = rank[f"{case} {dtype}"]
        assert Masks.from_state_dict(found["masks"]) == masks
        assert Masks.from_state_dict(found["further"]) == further
        assert (found["sparsity"], found["sparsities"]) == (masks.sparsity, masks.sparsities)
        assert equal(found["state"], model.state_dict())


def test_counts_are_sent_and_no_weights(folder):
    """A million float32 weights are 4 MB."""
    for sent in results("bytes_sent", folder):
        assert 0 < sent["ranking"] < 4_000
        assert sent["largest"] < 100
        assert sent["storing"] < 1_000_000 / 8 * 3.5  # a bit a weight: what is sent, and what is received of all


def test_statistics_and_signal_are_those_of_the_union(folder, processes):
    model, dense = plain(), plain()
    prune(model, 0.5)
    before = copy.deepcopy(model.state_dict())
    batches = [batch for rank in range(processes) for batch in BATCHES[rank::processes][: rank + 1]]
    calibrate(model, batches, max_batches=len(batches))
    signal = measure_signal(model, batches, reference=dense, max_batches=len(batches)).to_dict()
    for found in results("statistics_and_signal", folder):
        assert equal(found["before"], before)
        assert equal(found["undone"], before)
        for name, value in model.state_dict().items():
            torch.testing.assert_close(found["after"][name], value, rtol=1e-6, atol=1e-7)
        for row, expected in zip(found["signal"]["layers"], copy.deepcopy(signal)["layers"], strict=True):
            assert row.pop("name") == expected.pop("name")
            assert row.pop("class_share") is expected.pop("class_share") is None  # there are no labels
            assert row == pytest.approx(expected, rel=1e-6, abs=1e-7)
        assert [row["layer"] for row in found["signal"]["rectifiers"]] == ["0", "3"]


def test_a_process_that_fails_in_a_forward_pass_raises_on_all_and_the_model_still_works(folder):
    for rank, found in enumerate(results("a_batch_that_breaks_sharded", folder)):
        assert found["raised"] == ("ZeroDivisionError" if rank == 1 else "PeerError")
        assert equal(found["before"], found["after"])


def test_training_keeps_the_zeros_of_every_part(folder, processes):
    for found in results("training_keeps_zeros", folder):
        masks = Masks.from_state_dict(found["masks"])
        assert masks == prune(plain(), 0.7)
        assert masks == Masks.load(folder / f"masks_of_{processes}.pt")
        for (name, mask), moment in zip(masks.items(), found["moments"], strict=True):
            assert not found["state"][name][~mask].any()
            assert found["state"][name][mask].any()
            assert not moment[~mask].any()
            assert not torch.equal(found["state"][name], plain().state_dict()[name])


def test_masks_fit_any_number_of_processes(folder, processes):
    model = plain()
    masks = prune(model, 0.7)
    parts = results("masks_of_other_numbers_of_processes", folder)
    for found in parts:
        assert equal(found["state"], model.state_dict())
        assert Masks.from_state_dict(found["masks"]) == masks
    assert [sum(rows) for rows in zip(*(found["local"] for found in parts), strict=True)] == [8, 5, 1, 3]


def test_a_tensor_that_is_split_by_columns_is_ranked_once_and_sums_are_refused(folder):
    model = plain()
    masks = prune(model, 0.7)
    for found in results("split_otherwise", folder):
        assert Masks.from_state_dict(found["masks"]) == masks
        assert equal(found["state"], model.state_dict())
        assert all("'3.weight' is placed as (Partial(sum),)" in refused for refused in found["refused"])
        assert found["unchanged"]


def test_a_weight_that_is_not_finite_on_one_process_is_an_error_on_all(folder):
    first, *others = results("a_weight_that_is_not_finite_on_one", folder)
    assert first.startswith("ValueError: parameter '3.weight' holds NaN")
    assert all(text.startswith("PeerError: checking the weights failed on rank 0") for text in others)


def test_a_model_that_was_evaluated_is_pruned_in_its_parts(folder):
    model = plain()
    masks = prune(model, 0.7)
    for found in results("after_an_evaluation", folder):
        assert Masks.from_state_dict(found["masks"]) == masks
        assert equal(found["state"], model.state_dict())


def test_a_criterion_that_raises_on_one_process_raises_on_all(folder):
    for rank, names in enumerate(results("a_criterion_that_breaks", folder)):
        assert names == ["ZeroDivisionError" if rank == 1 else "PeerError"] * 2
