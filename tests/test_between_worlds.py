"""A checkpoint of any number of processes goes on with any other, and loads without this package."""

import subprocess
import sys

import pytest
import torch
from helpers import zeros
from scenarios.between_worlds import KINDS, SCENARIOS, alone, module, resumed_alone
from scenarios.processes import needs_processes, results, run

from reflow_lightning import Masks
from reflow_lightning.callbacks import consolidate

pytestmark = needs_processes

WITHOUT_THE_PACKAGE = """
import sys
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

dcp_to_torch_save(sys.argv[1], sys.argv[2])
state = torch.load(sys.argv[2], weights_only=True)["state_dict"]
meta = torch.load(sys.argv[1] + "/meta.pt", weights_only=True)
[reflow] = [state for key, state in meta["callbacks"].items() if key.startswith("Reflow")]
torch.save({"state": state, "masks": reflow["masks"]}, sys.argv[3])
assert not any(name.startswith("reflow_lightning") for name in sys.modules)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("worlds")
    torch.save(alone(folder), folder / "alone.pt")
    run(SCENARIOS, 2, folder)
    return folder


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def begins_as(found, written):
    assert Masks.from_state_dict(found["masks"]) == Masks.from_state_dict(written["masks"])
    assert 0 < Masks.from_state_dict(found["masks"]).sparsity < 0.6
    assert equal(found["state"], written["state"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_number_of_processes_ends_with_the_same_bits(kind, folder):
    for written, found in zip(results("saved", folder), results("resumed_by_the_same_number", folder), strict=True):
        begins_as(found[kind], written[kind])
        assert equal(found[kind]["end"], written[kind]["end"])


def test_processes_go_on_from_a_checkpoint_of_one(folder):
    written = torch.load(folder / "alone.pt", weights_only=True)
    for found in results("resumed_from_one_process", folder):
        begins_as(found, written)
        network = module()
        network.load_state_dict(found["end"])
        assert zeros(network) / sum(p.numel() for n, p in network.named_parameters() if p.ndim > 1) > 0.59


@pytest.mark.parametrize("kind", KINDS)
def test_one_process_goes_on_from_a_checkpoint_of_several(kind, folder, tmp_path):
    path = folder / f"{kind}_of_2"
    if kind == "folder":
        consolidate(path, tmp_path / "one.ckpt")
        path = tmp_path / "one.ckpt"
    found = resumed_alone(path)
    begins_as(found, results("saved", folder)[0][kind])
    assert equal(found["moments"], results("saved", folder)[0][kind]["moments"])
    assert found["last"].sparsity == pytest.approx(0.6, abs=1e-3)
    assert all(not found["end"][name][~mask].any() for name, mask in found["last"].items())


def test_a_folder_loads_without_this_package_masks_included(folder, tmp_path):
    files = [str(folder / "folder_of_2"), str(tmp_path / "whole.pt"), str(tmp_path / "found.pt")]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_PACKAGE, *files], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = torch.load(files[2], weights_only=True)
    network = module(seed=7)
    network.load_state_dict(found["state"])
    begins_as({"masks": found["masks"], "state": dict(network.state_dict())}, results("saved", folder)[0]["folder"])
