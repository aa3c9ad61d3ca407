"""Processes that differ: slower ones are waited for, those that have ended are named, and others go their own ways."""

import pytest
import torch
import torch.distributed as dist
from scenarios.differing import SCENARIOS, run_until_one_ends
from scenarios.processes import needs_processes, results, run
from scenarios.sharded_repairs import batches, network

from reflow_lightning import Masks
from reflow_lightning.events.pruner import Pruner
from reflow_lightning.running.world import alone, go_alone, rejoin, world_size

pytestmark = needs_processes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("differing")
    run(SCENARIOS, 3, folder)
    return folder


def test_a_slower_process_with_more_batches_is_waited_for(folder):
    """Two processes after the first have the same batches, so each counts twice."""
    model = network()
    pruner = Pruner(0.7, repair="reconstruct", calibration_batches=12, forward=lambda m, batch: m(batch[0]))
    pruner.apply(model, [batches()[0], *batches()[1:], *batches()[1:]])
    for found in results("one_is_slower", folder):
        assert Masks.from_state_dict(found["masks"]) == pruner.masks
        for name, value in model.state_dict().items():
            torch.testing.assert_close(found["state"][name], value, rtol=1e-4, atol=1e-4)


def test_trainers_of_one_device_in_a_group_do_not_wait_for_each_other(folder):
    first, second, idle = results("trainings_for_themselves", folder)
    assert (first["sparsity"], second["sparsity"]) == (pytest.approx(0.5, abs=2e-3),) * 2
    assert (first["steps"], second["steps"]) == ([8], [0])
    assert first["raised"].startswith("ZeroDivisionError")
    assert idle == {}


def test_functions_in_a_block_of_their_own_do_not_wait(folder):
    assert results("functions_for_themselves", folder) == [[1, 3]] * 3


@pytest.mark.parametrize(("world", "dies"), [(3, 2), (3, 1), (2, 0)])
def test_a_process_that_is_killed_in_an_event_is_named_by_the_others(world, dies, tmp_path):
    for found in run_until_one_ends(tmp_path, world=world, dies=dies):
        assert found["raised"].startswith("PeerError: the processes can't exchange data any more"), found["raised"]
        assert f"since rank {dies} ended without a word, or hangs" in found["raised"]
        assert found["seconds"] < 30
        as_before(found)


@pytest.mark.slow
def test_a_process_that_hangs_is_named_after_the_timeout_of_the_group(tmp_path):
    for found in run_until_one_ends(tmp_path, world=3, dies=1, hangs=True):
        assert "since rank 1 ended without a word, or hangs" in found["raised"], found["raised"]
        as_before(found)


def as_before(found):
    assert all(torch.equal(value, found["before"][name]) for name, value in found["parts"].items())


def test_who_is_alone_is_so_until_all_of_them_rejoin(monkeypatch):
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 3)

    class Who:
        pass

    first, second = Who(), Who()
    go_alone(first)
    go_alone(second)
    rejoin(first)
    assert world_size() == 1
    del second
    assert world_size() == 3
    with alone():
        assert world_size() == 1
    assert world_size() == 3
