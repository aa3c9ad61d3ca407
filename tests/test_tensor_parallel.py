"""Networks whose layers are split over processes, in one and in two dimensions of a mesh: what a whole network gets."""

import pytest
import torch
from helpers import zeros
from scenarios.processes import needs_processes, results, run
from scenarios.sharded_repairs import REPAIRS
from scenarios.tensor_parallel import CASES, SCENARIOS, Split

from reflow_lightning import Masks

pytestmark = needs_processes


@pytest.fixture(scope="module", params=[2, 4])
def folder(request, tmp_path_factory):
    """Two processes make meshes of 1 x 2 and 2 x 1, four of 1 x 4 and 2 x 2."""
    folder = tmp_path_factory.mktemp(f"{request.param}_parts")
    run(SCENARIOS, request.param, folder)
    return folder


def others(found):
    whole = found["whole"]
    split = {name: value for name, value in found.items() if name != "whole"}
    assert len(split) == 2
    return whole, split.items()


def close(first, second, atol):
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=atol, atol=atol, msg=lambda text, name=name: name + text)


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("case", CASES)
def test_each_weight_is_ranked_once_and_masks_have_the_shapes_of_the_pieces(case, folder):
    for rank in results("masks_of_every_kind", folder):
        whole, split = others(rank[case])
        expected = Masks.from_state_dict(whole["result"]["masks"])
        for mesh, found in split:
            assert Masks.from_state_dict(found["result"]["masks"]) == expected, mesh
            close(whole["state"], found["state"], 1e-6)
            for name in found["result"].keys() - {"masks"}:
                assert found["result"][name] == whole["result"][name], (mesh, name)
            assert found["result"].get("loaded", True)
            assert found["result"].get("local", True)


@pytest.mark.parametrize("repair", REPAIRS)
def test_every_repair_gives_the_same_weights_and_signal(repair, folder):
    for rank in results("events_of_each", folder):
        whole, split = others(rank[repair])
        for _, found in split:
            assert found["result"]["masks"]["checksum"] == whole["result"]["masks"]["checksum"]
            assert found["result"]["variance"] == pytest.approx(whole["result"]["variance"], rel=1e-5)
            close(whole["state"], found["state"], 1e-5)


def test_zeros_hold_in_every_piece_and_the_rest_is_trained_as_in_one(folder):
    for rank in results("a_training_that_keeps_zeros", folder):
        whole, split = others(rank)
        for _, found in split:
            masks = Masks.from_state_dict(found["result"])
            assert masks == Masks.from_state_dict(whole["result"])
            assert all(not found["state"][name][~mask].any() for name, mask in masks.items())
            close(whole["state"], found["state"], 1e-4)


def test_a_repair_is_undone_to_the_last_bit(folder):
    for rank in results("calibrations_that_are_undone", folder):
        for found in rank.values():
            assert equal(found["before"], found["undone"])
            assert not equal(found["before"], found["after"])


def test_a_repair_that_fails_on_one_process_leaves_all_as_they_were(folder):
    for place, rank in enumerate(results("a_repair_that_breaks_on_one", folder)):
        for found in rank.values():
            assert found["raised"].startswith("ZeroDivisionError" if place == 1 else "PeerError"), found["raised"]
            assert equal(found["before"], found["after"])


def test_a_trainer_prunes_repairs_and_keeps_zeros(folder):
    first, *rest = results("trainings", folder)
    for mesh, found in first.items():
        masks, module = Masks.from_state_dict(found["masks"]), Split()
        module.load_state_dict(found["end"])
        assert masks.sparsity == pytest.approx(0.6, abs=1e-3)
        assert zeros(module) == sum(int((~mask).sum()) for mask in masks.values())
        assert not torch.equal(found["end"]["net.1.weight"], found["dense"]["net.1.weight"])
        assert all(equal(found["end"], rank[mesh]["end"]) for rank in rest)
