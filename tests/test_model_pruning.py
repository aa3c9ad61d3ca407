"""Everything in which Lightning's ModelPruning is tried (benchmarks/model_pruning.py) goes well with Reflow."""

from pathlib import Path

import lightning.pytorch as pl
import pytest
from model_pruning_cases import CASES
from model_pruning_cases.sides import OURS, Side

ROOT = Path(__file__).parent.parent

MARKS = {
    "averaged_weights": pytest.mark.skipif(
        not hasattr(pl.callbacks, "EMAWeightAveraging"), reason="this Lightning has no averaging callback"
    ),
    "two_processes": pytest.mark.distributed,
    "two_processes_at_the_end": pytest.mark.distributed,
}
IDLE = Side("nothing", lambda module, task: pl.Callback(), OURS.selection)


@pytest.mark.parametrize("case", [pytest.param(c, id=c.name, marks=MARKS.get(c.name, ())) for c in CASES])
def test_reflow_does_what_the_case_asks_for(case, tmp_path):
    result = case.attempt(OURS, tmp_path)
    assert result.ok, f"{case.title}: {result.text}"


@pytest.mark.parametrize("case", [pytest.param(c, id=c.name) for c in CASES if "two_processes" not in c.name])
def test_a_callback_that_does_nothing_is_not_enough(case, tmp_path):
    assert not case.attempt(IDLE, tmp_path).ok


def test_the_page_has_every_case():
    page = (ROOT / "docs" / "model_pruning.md").read_text()
    assert [case.title for case in CASES if case.title not in page] == []
