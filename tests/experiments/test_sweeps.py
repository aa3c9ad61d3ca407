"""Sweeps as a person starts them: on the launchers and the sweeper of the extra, interrupted, and started again."""

import csv
import json
import time

import pytest
from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.errors import InstantiationException
from omegaconf import OmegaConf
from scenarios.commands import application, application_afresh, start_application

from reflow_lightning.experiments.overrides import complaints, config_groups
from reflow_lightning.experiments.results import fingerprint, note_error, read_finished, write_report

SMALL = ("epochs=1", "model.blocks=1", "reflow.calibration_batches=2", "reflow.monitor=false")
PLUGINS = {
    "joblib": "hydra_plugins.hydra_joblib_launcher",
    "slurm": "hydra_plugins.hydra_submitit_launcher",
    "submitit_local": "hydra_plugins.hydra_submitit_launcher",
    "optuna": "hydra_plugins.hydra_optuna_sweeper",
}


def run(folder, *arguments, expect=0, how=application):
    done = how(folder, *arguments)
    assert done.status == expect, done.text
    return done.text


def summary(folder):
    with (folder / "summary.csv").open() as file:
        return list(csv.DictReader(file))


def hydra_config(*overrides):
    for override in overrides:
        pytest.importorskip(PLUGINS.get(override.partition("=")[2], "hydra"))
    assert complaints(overrides) == []
    with initialize_config_module("reflow_lightning.conf", version_base="1.3"):
        return compose("config", overrides=list(overrides), return_hydra_config=True).hydra


@pytest.mark.parametrize("sweep", config_groups()["sweep"])
def test_a_sweep_needs_no_other_flag_and_has_a_folder_that_stays(sweep):
    config = hydra_config(f"sweep={sweep}")
    assert config.mode.name == "MULTIRUN"
    assert config.sweep.dir == f"multirun/{sweep}"


def test_the_grid_is_sparsity_by_model_by_repair():
    assert set(hydra_config("sweep=grid").sweeper.params) == {"sparsity", "model", "repair"}


@pytest.mark.parametrize("launcher", config_groups()["launcher"])
def test_a_plugin_knows_every_key_of_its_launcher(launcher):
    config = hydra_config("sweep=sparsity", f"launcher={launcher}")  # composing fails at a key that it does not know
    assert config.launcher._target_.startswith(PLUGINS[launcher])


def test_local_jobs_of_submitit_see_the_gpu():
    assert hydra_config("launcher=submitit_local").launcher.gpus_per_node == 1


@pytest.mark.parametrize(("override", "group"), [("launcher=joblib", "launcher"), ("sweep=optuna", "sweeper")])
def test_a_missing_plugin_is_answered_with_the_remedy(override, group, monkeypatch):
    complaints([])  # so that Hydra has looked for plugins
    choice = override.partition("=")[2]
    monkeypatch.delitem(ConfigStore.instance().repo["hydra"][group], f"{choice}.yaml", raising=False)
    [complaint] = complaints([override])
    assert complaint.startswith(f'hydra/{group}/{choice} is not installed; remedy: pip install "hydra-joblib-launcher')


def test_a_report_counts_for_its_own_configuration_only(tmp_path):
    config = OmegaConf.create({"sparsity": 0.9, "epochs": 1, "total": "${epochs}"})
    write_report(tmp_path, {"config": fingerprint(config)})
    assert read_finished(tmp_path, config)
    assert not read_finished(tmp_path, OmegaConf.merge(config, {"epochs": 2}))


def test_half_a_report_is_none(tmp_path):
    (tmp_path / "report.json").write_text('{"config": "')
    assert read_finished(tmp_path, OmegaConf.create()) is None


def test_an_error_takes_the_place_of_a_report_and_names_the_cause(tmp_path):
    write_report(tmp_path, {})
    error = InstantiationException("Error in call to target")
    error.__cause__ = ValueError("sparsity=2 is outside")
    note_error(tmp_path, error)
    assert [path.name for path in tmp_path.iterdir()] == ["error.txt"]
    assert (tmp_path / "error.txt").read_text().splitlines()[0] == "ValueError: sparsity=2 is outside"


@pytest.mark.slow
def test_a_sweep_started_again_skips_what_is_finished_and_tries_again_what_failed(tmp_path):
    command = ("sweep=sparsity", "sparsity=0.5,1.5", *SMALL)
    folder = tmp_path / "multirun" / "sparsity"
    first = run(tmp_path, *command, expect=1)
    assert "2 jobs, 1 failed: 1" in first
    assert "1 (sparsity=1.5): ValueError: sparsity=1.5 is outside" in first
    rows = summary(folder)
    again = run(tmp_path, *command, expect=1)
    assert f"{folder / '0'} holds the result of this job already: skipped" in again
    assert again.count("this job failed, the sweep goes on") == 1  # it was tried again
    assert summary(folder) == rows  # even the seconds
    other = run(tmp_path, "sweep=sparsity", "sparsity=0.5", *SMALL, "epochs=2")
    assert "skipped" not in other
    assert "1 jobs; summary" in other  # the second job is none of this sweep
    back = run(tmp_path, *command, expect=1)  # nothing of the first sweep was lost
    assert f"{folder / '0'} holds the result of this job already: skipped" in back


@pytest.mark.slow
def test_a_killed_sweep_goes_on_where_it_was(tmp_path):
    command = ("sweep=grid", "model=resnet20", "sparsity=0.5,0.9", *SMALL)
    folder = tmp_path / "multirun" / "grid"
    running = start_application(tmp_path, *command)
    while not (folder / "1" / "report.json").exists():
        assert running.process.is_alive(), running.finish()
        time.sleep(0.01)
    running.process.kill()
    running.finish()
    assert not (folder / "3" / "report.json").exists()
    text = run(tmp_path, *command)
    assert [f"{folder / str(job)} holds the result" in text for job in range(4)] == [True, True, False, False]
    assert [(row["status"], row["repair"]) for row in summary(folder)] == [("done", "none"), ("done", "auto")] * 2
    assert (folder / "summary.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_joblib_runs_jobs_at_the_same_time_and_goes_on_after_a_failed_one(tmp_path):
    pytest.importorskip(PLUGINS["joblib"])
    command = ("-m", "sparsity=1.5,0.5,0.9", "launcher=joblib", "hydra.launcher.n_jobs=2", *SMALL)
    text = run(tmp_path, *command, expect=1, how=application_afresh)
    assert "3 jobs, 1 failed: 0" in text
    [folder] = tmp_path.glob("multirun/*/*")
    assert [row["status"] for row in summary(folder)] == ["failed", "done", "done"]


@pytest.mark.slow
def test_submitit_keeps_the_results_beside_a_job_that_was_killed(tmp_path):
    pytest.importorskip(PLUGINS["submitit_local"])
    ends = "+callbacks.end._target_=lightning.pytorch.Callback,os.abort"
    command = ("sweep=sparsity", "sparsity=0.5", ends, "launcher=submitit_local", *SMALL)
    text = run(tmp_path, *command, expect=1, how=application_afresh)
    assert "2 jobs, 1 failed: 1" in text
    done, killed = summary(tmp_path / "multirun" / "sparsity")
    assert (done["status"], killed["status"]) == ("done", "failed")
    assert killed["error"] == "no report: it was killed, or still runs"


@pytest.mark.slow
def test_optuna_goes_on_after_a_failed_trial_and_repeats_its_trials_when_started_again(tmp_path):
    pytest.importorskip(PLUGINS["optuna"])
    command = ("sweep=optuna", "hydra.sweeper.n_trials=3", "schedule.fraction=interval(0.7,1.3)", *SMALL)
    folder = tmp_path / "multirun" / "optuna"
    text = run(tmp_path, *command, expect=1)
    rows = summary(folder)
    assert {row["status"] for row in rows} == {"done", "failed"}  # the seed draws 0.96, 1.26 and 1.29
    assert "Best value" in text
    assert f"{folder / '0'} holds the result" in run(tmp_path, *command, expect=1)
    assert summary(folder) == rows
    report = json.loads((folder / "0" / "report.json").read_text())
    assert report["repaired"] == float(rows[0]["repaired"])
    assert f"Best value: {report['validation']}" in text  # what it chooses by is no test result
