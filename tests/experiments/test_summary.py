import csv
import json

import pytest
from omegaconf import OmegaConf

from reflow_lightning.experiments.summary import SweepSummary, collect, plot


def job(folder, number, overrides, **report):
    (folder / str(number) / ".hydra").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(overrides), folder / str(number) / ".hydra" / "overrides.yaml")
    if report:
        content = {"metric": "accuracy", "seconds": {"total": 1.5}} | report
        (folder / str(number) / "report.json").write_text(json.dumps(content))


@pytest.fixture
def sweep(tmp_path):
    for number, sparsity in enumerate((0.5, 0.9)):
        job(tmp_path, number, [f"sparsity={sparsity}"], sparsity=sparsity, dense=0.9, pruned=0.2, repaired=0.8)
    job(tmp_path, 10, ["sparsity=2"])
    return tmp_path


def test_a_job_without_a_report_failed(sweep):
    rows = collect(sweep)
    assert [(row["job"], row["status"]) for row in rows] == [("0", "done"), ("1", "done"), ("10", "failed")]
    assert rows[2]["sparsity"] == "2"
    (sweep / "10" / "error.txt").write_text("ValueError: sparsity=2 is outside\n")
    assert collect(sweep)[2]["error"] == "ValueError: sparsity=2 is outside"


def test_the_plot_has_a_line_a_state():
    rows = [
        {"job": str(i), "status": "done", "metric": "accuracy", "sparsity": s, "dense": 0.9, "repaired": r}
        for i, (s, r) in enumerate([(0.9, 0.7), (0.5, 0.8)])
    ]
    lines = {line.get_label(): line for line in plot(rows).axes[0].lines}
    assert set(lines) == {"dense", "repaired"}
    assert list(lines["repaired"].get_xdata()) == [0.5, 0.9]
    assert list(lines["repaired"].get_ydata()) == [0.8, 0.7]


def test_other_overrides_make_lines_of_their_own():
    rows = [
        {"job": str(i), "status": "done", "metric": "accuracy", "sparsity": 0.5, "repaired": 0.8, "criterion": c}
        for i, c in enumerate(["magnitude", "random"])
    ]
    labels = [line.get_label() for line in plot(rows).axes[0].lines]
    assert labels == ["repaired (criterion=magnitude)", "repaired (criterion=random)"]


def test_the_summary_is_written_though_a_job_failed(sweep, capsys):
    with pytest.raises(SystemExit):
        SweepSummary().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(sweep)}}}))
    with (sweep / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["repaired"] for row in rows] == ["0.8", "0.8", ""]
    assert (sweep / "summary.png").stat().st_size > 5000
    assert "3 jobs, 1 failed: 10" in capsys.readouterr().out
