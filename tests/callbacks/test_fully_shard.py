"""`FullyShard` spreads any LightningModule over processes, and the pruning is the one of a single process."""

import pytest
import torch
from helpers import loader, trainer, zeros
from lightning.pytorch.strategies import FSDPStrategy
from scenarios.fully_sharded import SCENARIOS, Blocks, Normed
from scenarios.processes import needs_processes, results, run
from scenarios.trainings import Watch, data, seeded
from torch import nn

from reflow_lightning import Masks, Reflow
from reflow_lightning.callbacks import FullyShard
from reflow_lightning.callbacks.strategies import check_strategy
from reflow_lightning.running.spreading import blocks, spread_children


@pytest.fixture(scope="module", params=[2, 3])
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"{request.param}_parts")
    run(SCENARIOS, request.param, folder)
    return folder


class TestProcesses:
    pytestmark = needs_processes

    def test_an_event_is_that_of_one_process(self, folder):
        module, callback, watch = seeded(), Reflow(0.6, calibration_batches=9, repair="batchnorm"), Watch()
        callback.listeners.append(watch)
        trainer(callback, max_epochs=1).fit(module, data(), loader(16, shuffle=False))
        for found in results("in_one_line", folder):
            assert Masks.from_state_dict(found["masks"]) == callback.masks
            for name, value in watch.states[0].items():
                torch.testing.assert_close(found["after"][name], value, rtol=1e-6, atol=1e-7)

    def test_blocks_in_a_list_are_units_of_their_own_and_zeros_hold(self, folder):
        for found in results("a_list_of_blocks", folder):
            assert found["units"] == 5
            assert found["sharded"]
            assert not found["configures"]
            module = Blocks()
            module.load_state_dict(found["end"])
            masks = Masks.from_state_dict(found["masks"])
            assert masks.sparsity == pytest.approx(0.6, abs=1e-3)
            assert zeros(module) == sum(int((~mask).sum()) for mask in masks.values())

    def test_what_fully_shard_would_separate_or_leave_out_is_refused(self, folder):
        for shared, own in results("what_is_refused", folder):
            assert shared.startswith("ValueError: 'blocks.0.0.weight' and 'blocks.1.0.weight' are one parameter")
            assert own.startswith("ValueError: parameter 'scale' lies in Own itself")

    def test_parameters_that_only_some_processes_hold_are_refused_on_all(self, folder):
        for text in results("parameters_of_some_alone", folder):
            assert "parameter 'stages.stage_0.bias' is (3,) on rank 0 and missing on rank 1: build the same" in text

    def test_the_lines_that_replace_fsdp1_work(self, folder):
        for found in results("the_lines_of_the_page", folder):
            module = Normed()
            module.load_state_dict(found["end"])
            masks = Masks.from_state_dict(found["masks"])
            assert masks.sparsity == pytest.approx(0.6, abs=1e-3)
            assert zeros(module) == sum(int((~mask).sum()) for mask in masks.values())
            assert all(value.dtype == torch.float32 for value in found["end"].values())


def test_sizes_of_the_mesh_are_for_another_strategy():
    with pytest.raises(ValueError, match="tensor_parallel_size=2: FullyShard takes all processes"):
        FullyShard(tensor_parallel_size=2)


def test_nothing_is_spread_if_something_is_refused():
    """Before any process group is there."""
    module = nn.ModuleDict({"first": nn.Linear(2, 2), "second": nn.Linear(2, 2)})
    module["second"].weight = module["first"].weight
    with pytest.raises(ValueError, match=r"'first\.weight' and 'second\.weight' are one parameter"):
        spread_children(module, mesh=None)


def test_lone_layers_are_no_blocks():
    assert blocks(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))) == []


def test_fsdp1_is_refused_with_the_line_that_replaces_it():
    class Runner:
        strategy = FSDPStrategy()

    with pytest.raises(ValueError, match=r"strategy=FullyShard\(\).*docs/how_to/several_gpus\.md"):
        check_strategy(Runner())
