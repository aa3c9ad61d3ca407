"""Trainings of several processes agree with those of one, DDP and FSDP2 alike, and fail together."""

import pytest
import torch
import torch.distributed as dist
from helpers import Module, images, loader, selected_size, trainer, zeros
from scenarios.checkpoints import RESUMED, SAVED
from scenarios.processes import results, run
from scenarios.trainings import TRAININGS, Watch, data, seeded

from reflow_lightning import Masks, Reflow

pytestmark = [pytest.mark.distributed, pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")]
PRUNED = round(0.6 * selected_size(Module()))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("trainings")


@pytest.fixture(scope="module")
def folders(base):
    """Trainings of two and of three processes; then each number goes on from the checkpoints of both."""
    folders = {processes: base / str(processes) for processes in (2, 3)}
    for processes, folder in folders.items():
        folder.mkdir()
        run(SAVED | TRAININGS, processes, folder)
    for processes, folder in folders.items():
        run(RESUMED, processes, folder)
    return folders


@pytest.fixture(params=[2, 3])
def folder(request, folders):
    return folders[request.param]


def alone(**options):
    """The same prune event in one process."""
    module, callback, watch = seeded(), Reflow(0.6, calibration_batches=9, repair="batchnorm", **options), Watch()
    callback.listeners.append(watch)
    trainer(callback, max_epochs=1).fit(module, data(), loader(16, shuffle=False))
    return watch.states[0], callback.masks, callback.events[0]


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("scenario", ["ddp", "sharded", "several_loaders", "ddp_few_batches", "ddp_one_batch"])
def test_a_prune_event_does_what_it_does_in_one_process(scenario, folder):
    options = {
        "ddp_few_batches": {"calibration_data": lambda: images(24).split(8)},
        "ddp_one_batch": {"calibration_data": lambda: [images(16)]},
    }
    state, masks, event = alone(**options.get(scenario, {}))
    found = results(scenario, folder)
    for rank in found:
        assert Masks.from_state_dict(rank["masks"]) == masks
        assert rank["batches"] == event.calibration.batches
        assert equal(rank["after"], found[0]["after"])
        for name, value in state.items():
            torch.testing.assert_close(rank["after"][name], value, rtol=1e-6, atol=1e-7)
        for stage, report in event.signal.items():
            assert rank["signal"][stage]["batches"] == report.batches
            for row, expected in zip(rank["signal"][stage]["layers"], report.to_dict()["layers"], strict=True):
                numbers = {key: value for key, value in expected.items() if isinstance(value, float)}
                if scenario == "several_loaders":  # whose batches are dicts of pairs, in which labels are not found
                    assert numbers.pop("class_share") is not None
                    assert row["class_share"] is None
                assert row["name"] == expected["name"]
                assert {key: row[key] for key in numbers} == pytest.approx(numbers, rel=1e-6, abs=1e-7)


def test_a_repair_that_writes_weights_gives_the_same_where_they_are_spread(folder):
    pairs = (results(name, folder) for name in ("ddp_reconstructed", "sharded_reconstructed"))
    for whole, spread in zip(*pairs, strict=True):
        assert Masks.from_state_dict(spread["masks"]) == Masks.from_state_dict(whole["masks"])
        for name, value in whole["after"].items():
            torch.testing.assert_close(spread["after"][name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scenario", ["ddp", "sharded"])
def test_the_calibration_is_shared_out_batch_by_batch(scenario, folder):
    found = results(scenario, folder)
    assert [rank["batches_here"] for rank in found] == [len(range(rank, 9, len(found))) for rank in range(len(found))]


@pytest.mark.parametrize("scenario", ["ddp", "ddp_random_scores", "gradual_ddp", "sharded"])
def test_masks_are_equal_to_the_last_bit_and_hold_to_the_end(scenario, folder):
    first, *others = results(scenario, folder)
    for rank in (first, *others):
        masks = Masks.from_state_dict(rank["masks"])
        assert masks == Masks.from_state_dict(first["masks"])
        module = Module()
        module.load_state_dict(rank["end"])
        assert zeros(module) == PRUNED
        assert all(not rank["end"][name][~mask].any() for name, mask in masks.items())


def test_a_process_that_fails_stops_all_and_leaves_every_model_as_it_was(folder):
    for rank, found in enumerate(results("a_process_that_fails", folder)):
        if rank == 1:
            assert found["raised"].startswith("ZeroDivisionError: rank 1 alone")
        else:
            assert found["raised"].startswith("PeerError: ")
            assert "failed on rank 1 (ZeroDivisionError: rank 1 alone)" in found["raised"]
        assert equal(found["before"], found["after"])


@pytest.mark.parametrize("kind", ["parts", "one_file"])
@pytest.mark.parametrize("writers", [2, 3])
def test_any_number_of_processes_goes_on_from_a_checkpoint_of_another(kind, writers, folder, folders):
    written, *others = [found[kind] for found in results("sharded_checkpoint", folders[writers])]
    for rank in results("resumed", folder):
        found = rank[f"{kind}_{writers}"]
        masks = Masks.from_state_dict(written["masks"])
        assert 0 < masks.sparsity < 0.6
        for name, value in found["start"].items():  # running statistics differ in training: torch saves one rank's
            assert any(torch.equal(value, saved["state"][name]) for saved in (written, *others))
        assert all(not found["start"][name][~mask].any() for name, mask in masks.items())
        final = Masks.from_state_dict(found["masks"])
        assert all(not (final[name] & ~mask).any() for name, mask in masks.items())  # nothing grew back
        module = Module()
        module.load_state_dict(found["end"])
        assert zeros(module) == PRUNED


def test_the_same_number_of_processes_prunes_on_at_the_same_steps(folder):
    processes = len(results("resumed", folder))
    for written, rank in zip(results("sharded_checkpoint", folder), results("resumed", folder), strict=True):
        for kind in ("parts", "one_file"):
            steps = rank[f"{kind}_{processes}"]["steps"]
            assert steps
            assert steps == written[kind]["steps"][-len(steps) :]


def test_a_data_module_is_prepared_once_and_on_one_process(folder):
    first, *others = results("a_data_module_of_its_own", folder)
    assert (first, set(others)) == (1, {0})


def test_one_process_may_log_alone(folder):
    assert "one_logger" in {file.name.split(".")[0] for file in folder.iterdir()}
    results("one_logger", folder)
