"""A network under `fully_shard` runs, is written and is repaired while no more than a unit or two of it is whole."""

import pytest
import torch
from scenarios.processes import needs_processes, results, run
from scenarios.units import BY_DATA, DEPTH, SCENARIOS, batches, deep

from reflow_lightning import Masks, prune

pytestmark = needs_processes

FLOAT = 4
BLOCK = FLOAT * sum(p.numel() for p in deep()[1].parameters())
ROOT = FLOAT * sum(p.numel() for layer in (deep()[0], deep()[-1]) for p in layer.parameters())
EMPTY = FLOAT * sum(1 for _ in deep().parameters())
"""A parameter that is not whole has one value that stands for all of its elements."""

PADDED = 18 / 16
"""Parts have equal numbers of rows: of three processes, each has six of sixteen."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("units")
    run(SCENARIOS, 3, folder)
    return folder


def test_processes_run_other_numbers_of_batches_and_get_what_the_whole_network_gives(folder):
    for rank, found in enumerate(results("passes", folder)):
        assert found["equal"], rank
        assert found["nan"], "who reads a parameter that is not whole gets NaN"


def test_a_pass_holds_the_outermost_unit_and_one_more(folder):
    ranks = results("passes", folder)
    assert all(found["empty"] == found["after"] == EMPTY for found in ranks)
    assert len(ranks[-1]["most"]) == 6 * DEPTH
    assert max(ranks[-1]["most"]) <= PADDED * (ROOT + BLOCK) + EMPTY


def test_a_layer_of_a_copy_that_is_not_served_can_not_be_held(folder):
    for found in results("passes", folder):
        assert found["outside"].startswith("RuntimeError: this network is whole nowhere")


def test_what_is_written_while_a_layer_is_held_reaches_the_network_and_who_asks_later(folder):
    ranks = results("writing", folder)
    for found in ranks:
        for name, value in found["dense"].items():
            expected = 2 * value if name == "2.up.weight" else value
            assert torch.equal(found["found"][name], expected), name
    assert torch.equal(ranks[-1]["seen"], 2 * ranks[-1]["dense"]["2.up.weight"])


def test_a_pass_that_fails_on_one_process_ends_on_all_and_leaves_nothing_whole(folder):
    for rank, found in enumerate(results("failing", folder)):
        assert found["raised"].startswith("ZeroDivisionError" if rank == 1 else "PeerError"), found["raised"]
        assert found["after"] == 0
        assert found["rows"] > DEPTH, "it can be measured afterwards"
        assert torch.equal(found["output"], found["expected"])


def test_networks_that_need_parameters_elsewhere_are_measured_as_whole_ones(folder):
    for found in results("odd", folder):
        for kind, (expected, rows) in found["signal"].items():
            assert [name for name, _ in rows] == [name for name, _ in expected]
            for (name, variance), (_, wanted) in zip(rows, expected, strict=True):
                assert variance == pytest.approx(wanted, rel=1e-4), (kind, name)


def test_single_values_and_scales_that_move_end_as_in_a_whole_network(folder):
    for found in results("odd", folder):
        expected, state = found["states"]
        assert torch.equal(state["2.scale"], torch.ones(4))
        for name, value in expected.items():
            torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-5)


def test_a_group_may_have_one_process(tmp_path):
    run({"repairs": SCENARIOS["repairs"]}, 1, tmp_path)
    [found] = results("repairs", tmp_path)
    assert all(outcome["repaired"] for outcome in found.values())


def test_repairs_hold_a_few_units_of_both_networks(folder):
    for found in results("repairs", folder):
        for repair, outcome in found.items():
            assert outcome["repaired"], repair
            assert outcome["most"] <= 2 * PADDED * (ROOT + 2 * BLOCK) + 2 * EMPTY, repair
            assert outcome["after"] == 0


@pytest.mark.parametrize("name", BY_DATA)
def test_a_pruning_by_data_without_gradients_holds_a_unit_and_chooses_as_one_process_does(name, folder):
    expected = prune(deep(), 0.6, **BY_DATA[name], batches=batches(), max_batches=4)
    for rank in results("pruned_by_data", folder):
        assert Masks.from_state_dict(rank[name]["masks"]) == expected
        assert rank[name]["most"] <= PADDED * (ROOT + 2 * BLOCK) + EMPTY
        assert rank[name]["after"] == 0


def test_of_scores_each_process_keeps_its_part(folder):
    assert all(found["scores"] == 1 for found in results("pruned_by_data", folder))
