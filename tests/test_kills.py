"""Nothing is lost to kills and other faults (benchmarks/faults.py) but the steps since the last checkpoint."""

from pathlib import Path
from random import Random

import pytest
import torch
from faults import FAULTS
from faults_kills import PHASES, kill_masks, kill_training
from faults_outcome import Outcome, differences
from faults_runs import PHASES as OF_RUNS
from faults_runs import kill_runs
from faults_training import InPlaceIO

ROOT = Path(__file__).parent.parent

KILLS = 24

pytestmark = pytest.mark.slow


def test_a_training_killed_again_and_again_ends_bit_for_bit_as_one_left_alone(tmp_path):
    outcome = kill_training(PHASES, KILLS, tmp_path, Random(1))
    assert outcome.damage == []
    assert outcome.tried == KILLS
    assert {phase: outcome.seen[f"killed while {phase}"] for phase in PHASES} == dict.fromkeys(PHASES, KILLS // 3)
    assert outcome.seen["half-written file left beside"] > 0  # kills struck while the file was written


def test_kills_do_harm_a_checkpoint_that_is_written_in_place(tmp_path):
    outcome = kill_training(PHASES[-1:], 20, tmp_path, Random(1), InPlaceIO)
    assert any("does not load" in damage for damage in outcome.damage)


def test_a_run_killed_again_and_again_ends_bit_for_bit_as_one_left_alone(tmp_path):
    outcome = kill_runs(3, tmp_path, Random(1))
    assert outcome.damage == []
    assert all(outcome.seen[f"killed {OF_RUNS[phase]}"] >= 3 for phase in (1, 3))


def test_a_mask_file_is_the_old_or_the_new_one_after_a_kill(tmp_path):
    outcome = kill_masks(50, tmp_path, Random(1))
    assert (outcome.tried, outcome.damage) == (50, [])
    assert outcome.seen["half-written file left beside"] > 0


def test_kills_do_harm_a_mask_file_that_is_written_in_place(tmp_path):
    assert kill_masks(30, tmp_path, Random(1), write_in_place).damage


def write_in_place(masks, path):
    torch.save(masks.state_dict(), path)


@pytest.mark.parametrize("fault", [pytest.param(f, id=f.title) for f in FAULTS if "SIGKILL" not in f.title])
def test_no_other_fault_loses_anything(fault, tmp_path):
    outcome = fault.attempt(min(fault.times, 30), tmp_path, Random(1))
    assert outcome.tried > 0
    assert (outcome.damage, outcome.lost) == ([], "nothing")


def test_the_smallest_difference_is_noticed():
    a = {"x": [torch.tensor([0.0, 1.0])], "y": 1}
    assert differences(a, {"x": [torch.tensor([0.0, 1.0])], "y": 1}) == []
    assert differences(a, {"x": [torch.tensor([-0.0, 1.0])], "y": 1}) == ["/x/0"]
    assert differences(a, {"x": [torch.tensor([0.0, 1.0])], "y": True}) == ["/y"]
    assert differences(a, {"x": []}) == ["/y", "/x"]


def test_what_was_lost_is_said():
    assert Outcome(tried=1).lost == "nothing"
    assert Outcome(tried=1, steps=[2, 3]).lost == "at most 3 steps, those since the last checkpoint"
    assert "1 times something" in Outcome(tried=1, damage=["a weight differs"], steps=[2]).lost


def test_the_page_has_every_fault():
    page = (ROOT / "docs" / "faults.md").read_text()
    assert [fault.title for fault in FAULTS if f"| {fault.title} |" not in page] == []
