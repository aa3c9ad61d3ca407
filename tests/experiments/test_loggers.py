"""What each logger of the application wrote, read back with the logger's own reader."""

import csv
import json
import sys

import pytest
import yaml
from experiments.test_resume import PRETRAIN, SMALL, configuration, stopped
from scenarios.commands import application
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from reflow_lightning.experiments.experiment import run
from reflow_lightning.experiments.loggers import check_loggers, make_loggers
from reflow_lightning.experiments.resume import settings

STATES = ("dense", "pruned", "repaired")
pytestmark = pytest.mark.filterwarnings("ignore")


def report_of(folder, *overrides):
    report = run(configuration("epochs=1", *overrides), folder)
    return {f"states/{stage}_accuracy": row["value"] for stage, row in report["stages"].items()}


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_tensorboard_compares_runs_by_their_settings_and_results(tmp_path):
    expected = report_of(tmp_path, "logger=tensorboard", "seed=3")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {name: events.Scalars(name)[0].value for name in expected} == pytest.approx(expected)
    assert sorted(events.Tags()["images"]) == [f"activations/{of}" for of in ("by_layer", "over_training", "values")]
    for state in STATES:
        run_of_state = EventAccumulator(str(tmp_path / "tensorboard" / state))
        run_of_state.Reload()
        accuracy, _ = run_of_state.Scalars("states/accuracy")
        assert accuracy.value == pytest.approx(expected[f"states/{state}_accuracy"])
    session = HParamsPluginData.FromString(events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content)
    settings = session.session_start_info.hparams
    assert (settings["sparsity"].number_value, settings["seed"].number_value) == (0.8, 3)
    assert (settings["criterion"].string_value, settings["repair"].string_value) == ("magnitude", "auto")
    assert sorted(settings)[:4] == ["criterion", "repair", "seed", "sparsity"]  # TensorBoard shows five at first


def test_csv_files_hold_curves_results_and_settings(tmp_path):
    expected = report_of(tmp_path, "logger=csv")
    metrics = rows(tmp_path / "csv" / "metrics.csv")
    found = {name: float(row[name]) for row in metrics for name in expected if row[name]}
    assert found == pytest.approx(expected)
    assert {row["stage"] for row in rows(tmp_path / "csv" / "signal.csv")} == set(STATES)
    assert yaml.safe_load((tmp_path / "csv" / "hparams.yaml").read_text())["sparsity"] == 0.8


def test_curves_of_a_resumed_run_go_on(tmp_path):
    stopped(configuration("epochs=2", "logger=many"), tmp_path, 6)
    run(configuration("epochs=2", "logger=many", "resume=true"), tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    steps = [scalar.step for scalar in events.Scalars("val/accuracy")]
    assert steps == [3, 7]
    assert {path.parent.name for path in (tmp_path / "csv").rglob("metrics.csv")} == {"csv", "from_step_6"}


def test_without_loggers_nothing_is_logged_and_all_is_reported(tmp_path):
    report_of(tmp_path, "logger=none")
    assert {"report.json", "signal.csv", "variance_profile.png", "pruned.ckpt"} == {p.name for p in tmp_path.iterdir()}


def test_a_logger_of_ones_own_keeps_the_folder_that_it_names(tmp_path):
    own = ("+logger.mine._target_=lightning.pytorch.loggers.CSVLogger", f"+logger.mine.save_dir={tmp_path / 'mine'}")
    run(configuration("epochs=1", "logger=none", *own), tmp_path)
    assert list((tmp_path / "mine").rglob("metrics.csv"))


def test_without_training_the_loggers_get_the_same(tmp_path):
    run(configuration("epochs=1"), tmp_path)
    (tmp_path / "again").mkdir()
    expected = report_of(tmp_path / "again", f"ckpt={tmp_path / 'pruned.ckpt'}", "train=false", "logger=many")
    found = rows(tmp_path / "again" / "csv" / "metrics.csv")[-1]
    assert {name: float(found[name]) for name in expected} == pytest.approx(expected)
    assert (tmp_path / "again" / "csv" / "signal.csv").exists()


@pytest.mark.slow
def test_mlflow_holds_curves_results_settings_and_the_picture(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    place = (
        "tags=[first]",
        f"logger.mlflow.tracking_uri={uri}",
        f"+logger.mlflow.artifact_location={tmp_path / 'artifacts'}",
    )
    expected = report_of(tmp_path, "logger=mlflow", *place)
    client = mlflow.MlflowClient(uri)
    (experiment,) = (e for e in client.search_experiments() if e.name == "reflow_lightning")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert {name: found.data.metrics[name] for name in expected} == pytest.approx(expected)
    assert {"variance/net.bn1", "sparsity/global", "val/accuracy"} <= set(found.data.metrics)
    assert (found.data.params["sparsity"], found.data.params["optimizer.lr"]) == ("0.8", "0.1")
    assert found.data.tags["first"] == "true"
    (picture,) = client.list_artifacts(found.info.run_id, "activations/by_layer")
    assert picture.path.endswith("step_00000004.png")
    table = client.download_artifacts(found.info.run_id, "signal/signal/step_00000004.csv", str(tmp_path))
    with open(table) as file:
        assert {row["stage"] for row in csv.DictReader(file)} == set(STATES)


@pytest.mark.slow
def test_mlflow_goes_on_in_the_run_of_before(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    cfg = ("epochs=2", "logger=mlflow", f"logger.mlflow.tracking_uri={uri}")
    cfg = (*cfg, f"+logger.mlflow.artifact_location={tmp_path / 'artifacts'}")
    stopped(configuration(*cfg), tmp_path, 6)
    run(configuration(*cfg, "resume=true"), tmp_path)
    client = mlflow.MlflowClient(uri)
    (experiment,) = (e for e in client.search_experiments() if e.name == "reflow_lightning")
    (found,) = client.search_runs([experiment.experiment_id])
    assert [metric.step for metric in client.get_metric_history(found.info.run_id, "val/accuracy")] == [3, 7]


@pytest.mark.slow
def test_wandb_has_a_run_for_each_training_and_job(tmp_path):
    pytest.importorskip("wandb")
    command = ("-m", *SMALL, *PRETRAIN, "epochs=0", "finetune_epochs=1", "logger=wandb", "hydra.sweep.dir=out")
    done = application(tmp_path, *command, "seed=0,1")
    assert done.status == 0, done.text
    runs = {path.name.rpartition("-")[2] for path in (tmp_path / "out").glob("*/wandb/**/offline-run-*")}
    assert len(runs) == 4


@pytest.mark.slow
def test_wandb_holds_curves_results_settings_and_the_picture_in_a_run_of_this_machine(tmp_path):
    pytest.importorskip("wandb")
    done = application(tmp_path, *SMALL, "epochs=1", "logger=wandb", "hydra.run.dir=out")
    assert done.status == 0, done.text
    expected = json.loads((tmp_path / "out" / "report.json").read_text())["stages"]
    (folder,) = (tmp_path / "out" / "wandb").glob("**/offline-run-*")
    found, settings = read_offline(next(folder.glob("*.wandb")))
    assert {stage: found[f"states/{stage}_accuracy"] for stage in STATES} == pytest.approx(
        {stage: row["value"] for stage, row in expected.items()}
    )
    assert settings["sparsity"] == 0.8
    assert {path.suffix for path in (folder / "files" / "media").rglob("*.*")} >= {".png", ".json"}


def read_offline(path):
    """The last value of every metric, and the settings, in the file of an offline run."""
    from wandb.proto.wandb_internal_pb2 import Record

    found, settings = {}, {}
    for content in records(path.read_bytes()):
        record = Record.FromString(content)
        found |= {key_of(item): json.loads(item.value_json) for item in record.history.item}
        updates = [*record.run.config.update, *record.config.update]
        settings |= {key_of(item): json.loads(item.value_json) for item in updates}
    return found, settings


def key_of(item):
    return ".".join(item.nested_key) or item.key


def records(content, header=7, block=32768):
    """The records of a log in blocks, as LevelDB has it: checksum, length and kind of each piece, then the piece."""
    at, pieces = header, b""
    while at + header <= len(content):
        if block - at % block < header:
            at += block - at % block
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        pieces += content[at + header : at + header + length]
        at += header + length
        if kind in (1, 4):  # whole, or the last piece
            yield pieces
            pieces = b""


def test_a_logger_that_is_not_installed_is_told_before_anything_is_trained(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r'pip install "wandb.*\(the extra "wandb"\)'):
        check_loggers(configuration("logger=wandb"))


@pytest.mark.parametrize("name", ["logger", "callbacks"])
def test_a_logger_given_to_the_trainer_is_refused_with_its_right_place(name, tmp_path):
    with pytest.raises(ValueError, match=rf"write \+{name}\.mine\._target_=\.\.\. in place of"):
        run(configuration(f"+trainer.{name}._target_=lightning.pytorch.loggers.CSVLogger"), tmp_path)


def test_the_settings_are_told_without_a_change_to_the_configuration():
    cfg = configuration("debug=profiler", "seed=3")
    told = settings(cfg)
    assert told["seed"] == 3
    assert "trainer.profiler" not in told or told["trainer.profiler"] is None
    assert cfg.trainer.profiler.filename == "profile"


def test_a_logger_of_several_is_taken_away_with_null(tmp_path):
    cfg = configuration("logger=many", "logger.csv=null")
    check_loggers(cfg)
    assert [type(logger).__name__ for logger in make_loggers(cfg, tmp_path)] == ["TensorBoardLogger"]


def test_a_second_reflow_is_refused():
    with pytest.raises(ValueError, match=r"callbacks.reflow is a second Reflow: .* here it is there anyway"):
        check_loggers(configuration("callbacks=reflow"))
