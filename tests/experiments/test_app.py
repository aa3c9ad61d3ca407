"""The application as a person runs it: a command in a folder of its own."""

import csv
import json

import pytest
import torch
from helpers import zeros
from scenarios.commands import application, application_afresh

from reflow_lightning import Masks, __version__
from reflow_lightning.experiments.classifier import Classifier
from reflow_lightning.experiments.models.resnet import ResNet

SMALL = ("epochs=1", "model.blocks=1", "reflow.calibration_batches=3")


def run(folder, *arguments, expect=0):
    """Run the application in a folder and return what it printed."""
    done = application(folder, *arguments)
    assert done.status == expect, done.text
    return done.text


def only(paths):
    [path] = list(paths)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    done = application_afresh(folder, *SMALL)
    assert done.status == 0, done.text
    return only(folder.glob("outputs/*/*")), done.text


def test_everything_is_written_into_the_output_folder(small):
    folder, text = small
    assert str(folder) in text
    files = {"report.json", "signal.csv", "variance_profile.png", "pruned.ckpt", "tensorboard"}
    assert files <= {path.name for path in folder.iterdir()}
    assert list(folder.glob("tensorboard/events.*"))
    assert (folder / "variance_profile.png").read_bytes().startswith(b"\x89PNG")


def test_the_report_holds_the_three_states(small):
    report = json.loads((small[0] / "report.json").read_text())
    assert report["metric"] == "accuracy"
    assert all(0 <= report[state] <= 1 for state in ("dense", "pruned", "repaired"))
    assert report["sparsity"] == pytest.approx(0.9, abs=1e-4)
    assert {"train", "prune", "repair", "total"} <= set(report["seconds"])
    assert [details["sparsity"] > 0 for details in report["stages"].values()] == [False, True, True]


def test_the_table_shows_them(small):
    for word in ("dense", "pruned", "repaired", "accuracy", "sparsity", "seconds"):
        assert word in small[1]


def test_the_signal_has_a_row_a_stage_and_layer(small):
    with (small[0] / "signal.csv").open() as file:
        rows = list(csv.DictReader(file))
    stages = [row["stage"] for row in rows]
    assert stages.count("dense") == stages.count("pruned") == stages.count("repaired") == 8
    assert all(float(row["variance"]) >= 0 for row in rows)
    assert all(row["cosine"] for row in rows if row["stage"] != "dense")


def test_the_checkpoint_holds_the_pruned_network_and_its_masks(small):
    content = torch.load(small[0] / "pruned.ckpt", weights_only=True)
    module = Classifier(ResNet(1, in_channels=1), 10, torch.optim.SGD)
    module.load_state_dict(content["state_dict"])
    [state] = [state for key, state in content["callbacks"].items() if "Reflow" in key]
    pruned = sum(int((~mask).sum()) for mask in Masks.from_state_dict(state["masks"]).values())
    assert zeros(module) == pruned


def test_a_seed_gives_the_same_result(small, tmp_path):
    run(tmp_path, *SMALL)
    again = only(tmp_path.glob("outputs/*/*"))
    first, second = (json.loads((folder / "report.json").read_text()) for folder in (small[0], again))
    for state in ("dense", "pruned", "repaired"):
        assert first[state] == second[state]
    assert (small[0] / "signal.csv").read_text() == (again / "signal.csv").read_text()
    weights = [torch.load(folder / "pruned.ckpt", weights_only=True)["state_dict"] for folder in (small[0], again)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_sweep_ends_with_a_summary_over_all_jobs(tmp_path):
    text = run(tmp_path, "-m", "sparsity=0.5,0.9", *SMALL)
    folder = only(tmp_path.glob("multirun/*/*"))
    assert "2 jobs; summary.html, summary.csv" in text
    with (folder / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["sparsity"]) for row in rows] == pytest.approx([0.5, 0.9], abs=1e-3)
    for row in rows:
        report = json.loads((folder / row["job"] / "report.json").read_text())
        assert float(row["repaired"]) == report["repaired"]
    assert (folder / "summary.png").read_bytes().startswith(b"\x89PNG")


def test_a_sweep_goes_on_after_a_failed_job_and_names_it(tmp_path):
    text = run(tmp_path, "-m", "sparsity=0.5", "schedule.fraction=2.0,1.0", *SMALL, expect=1)
    assert "OneShot(fraction=2.0) must be in [0, 1]" in text
    assert "2 jobs, 1 failed: 0" in text
    with (only(tmp_path.glob("multirun/*/*")) / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["failed", "done"]
    assert "must be in [0, 1]" in rows[0]["error"]


@pytest.mark.parametrize("schedule", ["gradual", "one_shot"])
def test_schedules_within_the_training(schedule, tmp_path):
    run(
        tmp_path,
        f"schedule={schedule}",
        "criterion=random",
        "allocation=uniform",
        "optimizer=adamw",
        *SMALL,
        "epochs=2",
    )
    report = json.loads((only(tmp_path.glob("outputs/*/*")) / "report.json").read_text())
    assert report["stages"]["final"]["sparsity"] == pytest.approx(0.9, abs=1e-4)
    steps = [details["step"] for details in report["stages"].values()]
    assert steps == sorted(steps)
    assert steps[-1] > steps[-2]


@pytest.mark.parametrize(
    ("argument", "answer"),
    [
        ("sparcity=0.9", "'sparcity' is no key; nearest: sparsity"),
        ("schedule=gradul", "schedule=gradul is no choice; nearest: gradual"),
        ("trainer.max_epoch=3", "'trainer.max_epoch' is no key; nearest: trainer.max_epochs"),
    ],
)
def test_a_mistyped_override_is_answered_with_the_nearest_key(argument, answer, tmp_path):
    assert answer in run(tmp_path, argument, expect=2)
    assert not list(tmp_path.iterdir())


def test_a_value_out_of_range_is_an_error_that_names_it(tmp_path):
    assert "sparsity=1.5 is outside [0, 1)" in run(tmp_path, "sparsity=1.5", *SMALL, expect=1)


@pytest.mark.slow
@pytest.mark.parametrize(("sparsity", "least"), [(0.9, 0.96), (0.95, 0.93)])
def test_the_default_run_shows_collapse_and_recovery(sparsity, least, tmp_path):
    run(tmp_path, f"sparsity={sparsity}")
    report = json.loads((only(tmp_path.glob("outputs/*/*")) / "report.json").read_text())
    assert report["dense"] >= 0.98
    assert report["pruned"] <= 0.5
    assert report["repaired"] >= least
    assert report["seconds"]["total"] < 120  # 14 to 24 on two idle cores, up to 60 seen on a machine that others load


def test_a_sweep_over_several_devices_is_refused(tmp_path):
    text = run(tmp_path, "-m", "sparsity=0.5", "trainer.devices=2", *SMALL, expect=1)
    assert "a sweep with trainer.devices=2 would start anew in each process" in text


def test_an_unknown_metric_is_an_error_that_names_the_known(tmp_path):
    text = run(tmp_path, "metric=f1", *SMALL, expect=1)
    assert "metric=f1 is not among what the test logs: loss, accuracy" in text


def test_help_shows_groups_keys_and_examples(tmp_path):
    text = run(tmp_path, "--help")
    schedules = "schedule: after_training, gradual, iterative, one_shot"
    for part in (schedules, "sparsity: 0.9", "reflow-lightning -m sparsity"):
        assert part in text


@pytest.mark.parametrize("arguments", [("--version",), ("search", "--version")])
def test_the_version_is_that_of_the_package(arguments, tmp_path):
    assert run(tmp_path, *arguments) == f"reflow-lightning {__version__}\n"
