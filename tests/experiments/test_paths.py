"""A run that moves into its own folder finds its files where the command was started."""

import json

import pytest
import torch
from omegaconf import OmegaConf
from scenarios.commands import application

from reflow_lightning.experiments.models.resnet import ResNet
from reflow_lightning.experiments.paths import find_from

MOVED = ("hydra.job.chdir=true", "train=false", "model.blocks=1", "reflow.calibration_batches=3", "repair=none")


def report_of(folder):
    [report] = folder.glob("*/**/report.json")
    return json.loads(report.read_text())


@pytest.fixture
def folder(tmp_path):
    torch.save(ResNet(blocks=1, in_channels=1, num_classes=10).state_dict(), tmp_path / "dense.ckpt")
    (tmp_path / "mine.py").write_text(
        "from reflow_lightning.pruning import register_criterion\n"
        "register_criterion('of_the_file', lambda name, weight: weight.abs())\n"
    )
    return tmp_path


@pytest.mark.parametrize("sweep", [(), ("-m", "hydra.sweep.dir=swept")], ids=["run", "sweep"])
def test_a_checkpoint_and_an_extension_are_found_from_where_it_was_started(folder, sweep):
    done = application(folder, *sweep, *MOVED, "ckpt=dense.ckpt", "extensions=[mine.py]", "criterion=of_the_file")
    assert done.status == 0, done.text
    assert report_of(folder)["sparsity"] == pytest.approx(0.9, abs=1e-3)
    assert {path.name for path in folder.iterdir()} <= {"dense.ckpt", "mine.py", "outputs", "swept"}


def test_data_that_are_missing_are_looked_for_where_it_was_started(folder):
    done = application(folder, *MOVED, "ckpt=dense.ckpt", "data=imagenet", "data_dir=mine", "model=resnet20")
    assert done.status == 1
    assert f"no images in {folder}/mine/imagenet/train" in done.stderr.replace("\n", " ")


def test_urls_and_absolute_paths_stay(tmp_path):
    data = {"folder": "s3://bucket/images"}
    cfg = OmegaConf.create({"ckpt": None, "data_dir": "/data", "data": data, "extensions": []})
    before = OmegaConf.to_container(cfg)
    find_from(tmp_path, cfg)
    assert OmegaConf.to_container(cfg) == before


def test_what_lies_below_data_dir_follows_it(tmp_path):
    cfg = OmegaConf.create({"ckpt": None, "data_dir": "data", "data": {"folder": "${data_dir}/x"}, "extensions": []})
    find_from(tmp_path, cfg)
    assert cfg.data.folder == f"{tmp_path}/data/x"
