"""Runs of the application on two devices, which are two processes on the CPU here."""

import json

import pytest
from experiments.test_resume import SMALL, STOP, configuration, outcome, same
from scenarios.commands import application

from reflow_lightning.experiments.checkpoints import load_weights
from reflow_lightning.experiments.experiment import run
from reflow_lightning.experiments.models.resnet import ResNet

pytestmark = [pytest.mark.slow, pytest.mark.distributed]
TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
SPREAD = ("trainer=fsdp", "trainer.accelerator=cpu", "trainer.devices=2")


def command(folder, *arguments, how=TWO):
    return application(folder, *SMALL, *how, *arguments)


@pytest.mark.parametrize("how", [TWO, SPREAD])
def test_a_run_trains_prunes_tests_and_reports_once(how, tmp_path):
    done = command(tmp_path, "epochs=2", "hydra.run.dir=out", how=how)
    assert done.status == 0, done.text
    assert done.stdout.count("results go to") == 1
    assert done.stdout.count("repaired") == 1
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [row["step"] for row in report["stages"].values()] == [8, 8, 8]
    assert report["stages"]["repaired"]["sparsity"] == pytest.approx(0.8, abs=1e-3)


@pytest.mark.parametrize("how", [TWO, SPREAD])
def test_stopped_and_resumed_it_ends_like_one_that_never_stopped(how, tmp_path):
    assert command(tmp_path, "epochs=3", "seed=1", "hydra.run.dir=alone", how=how).status == 0
    (tmp_path / "stopping.py").write_text(STOP)
    stop = ("+callbacks.stop._target_=stopping.Stop", "+callbacks.stop.seed=1", "+callbacks.stop.signal=SIGTERM")
    first = command(tmp_path, "epochs=3", "seed=1", "hydra.run.dir=out", *stop, how=how)
    assert first.status == 143, first.text
    second = command(tmp_path, "epochs=3", "seed=1", "resume=true", "hydra.run.dir=out", how=how)
    assert second.status == 0, second.text
    assert same(outcome(tmp_path / "out"), outcome(tmp_path / "alone"))


def test_without_training_calibration_and_tests_are_shared_out(tmp_path):
    run(configuration("epochs=2", "sparsity=0.3"), tmp_path)
    arguments = (
        f"ckpt={tmp_path / 'pruned.ckpt'}",
        "train=false",
        "repair=batchnorm",
        "trainer.limit_test_batches=1.0",
    )
    done = command(tmp_path, *arguments, "hydra.run.dir=out")
    assert done.status == 0, done.text
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["calibration"]["batches"] == 2  # of both together
    (tmp_path / "alone").mkdir()
    alone = run(configuration(*arguments), tmp_path / "alone")
    for stage in ("dense", "pruned"):
        together, single = report["stages"][stage], alone["stages"][stage]
        assert together.pop("interval") == pytest.approx(single.pop("interval"))
        assert together == pytest.approx(single)


def test_spread_over_devices_a_network_comes_to_the_same_and_its_file_is_an_ordinary_one(tmp_path):
    ways = (
        "epochs=2",
        "finetune_epochs=1",
        "+optimizer@pretrain.optimizer=sgd",
        "+scheduler@pretrain.scheduler=cosine",
    )
    for name, how in (("ddp", TWO), ("fsdp", SPREAD)):
        done = command(tmp_path, *ways, "+pretrain.total_epochs=1", f"hydra.run.dir={name}", how=how)
        assert done.status == 0, done.text
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("ddp", "fsdp")]
    for stage in ("dense", "pruned", "repaired", "final"):
        spread, whole = (report["stages"][stage] for report in reports)
        assert spread["sparsity"] == pytest.approx(whole["sparsity"], abs=1e-3)
        assert spread["value"] == pytest.approx(whole["value"], abs=0.05)
    net = ResNet(1, in_channels=1, width=4)
    for file in ("pruned.ckpt", "dense.ckpt"):
        load_weights(net, tmp_path / "fsdp" / file)
    assert reports[0]["cost"]["parameters"] == reports[1]["cost"]["parameters"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), "trainer.devices=None: trainer=fsdp needs a number"),
        (("trainer.devices=2", "collapse=true"), "collapse=true needs the network whole"),
        (("trainer.devices=2", "train=false", "ckpt=x"), "train=false with trainer=fsdp: .* use trainer=ddp"),
    ],
)
def test_what_a_network_that_is_spread_can_not_do_is_told_first(overrides, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        run(configuration("trainer=fsdp", *overrides), tmp_path)
