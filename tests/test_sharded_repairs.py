"""Every criterion, allocation and repair under `fully_shard`: what a whole network gets on as many ranks."""

import pytest
import torch
from scenarios.processes import needs_processes, results, run
from scenarios.sharded_repairs import CRITERIA, REPAIRS, SCENARIOS, network

pytestmark = needs_processes


@pytest.fixture(scope="module", params=[2, 3])
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"{request.param}_parts")
    run(SCENARIOS, request.param, folder)
    return folder


def close(first, second, atol):
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=atol, atol=atol, msg=lambda text, name=name: name + text)


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_every_criterion_and_allocation_chooses_the_same_weights(folder):
    for rank in results("functions_of_each", folder):
        assert len(rank) == len(CRITERIA) + 3 + 2
        for name, found in rank.items():
            assert found["spread"]["result"]["checksum"] == found["whole"]["result"]["checksum"], name
            close(found["whole"]["state"], found["spread"]["state"], 1e-6)


def test_every_repair_gives_the_same_weights_and_statistics(folder):
    for rank in results("events_of_each", folder):
        assert {name.split()[0] for name in rank} == set(REPAIRS)
        for name, found in rank.items():
            assert found["spread"]["result"]["checksum"] == found["whole"]["result"]["checksum"], name
            close(found["whole"]["state"], found["spread"]["state"], 1e-5)
            dense = dict(network().state_dict())
            assert not torch.equal(found["spread"]["state"]["1.up.weight"], dense["1.up.weight"])


def test_a_repair_is_undone_to_the_last_bit_and_training_goes_on(folder):
    for found in results("calibrations_that_are_undone", folder):
        assert equal(found["before"], found["undone"])
        assert not equal(found["before"], found["after"])
        assert equal(found["dense"], dict(network().state_dict()))
        assert found["grads"]


def test_a_repair_that_fails_on_one_process_leaves_the_network_of_all_as_it_was(folder):
    for rank, found in enumerate(results("a_repair_that_breaks_on_one", folder)):
        for repair, outcome in found.items():
            kind = "ZeroDivisionError" if rank == 1 else "PeerError"
            assert outcome["raised"].startswith(kind), (repair, outcome["raised"])
            assert equal(outcome["before"], outcome["after"])
            assert outcome["again"] == "nothing"


def test_a_copy_is_an_ordinary_network_and_is_written_back_in_parts(folder):
    for found in results("copies", folder):
        assert found["equal"]
        assert found["hooked"] >= 2
        assert found["sharded"] == 0
        assert "FSDP" not in " ".join(found["kinds"])
        assert found["tied"]
        assert found["still"] == 3
        assert found["output"] == (32, 5)
        expected = {name: value + 1 for name, value in network().named_parameters()}
        for name, value in expected.items():
            torch.testing.assert_close(found["written"][name], value.detach())
