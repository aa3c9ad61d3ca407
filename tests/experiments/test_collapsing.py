"""The end of an experiment with collapse=true: a smaller network that does the same, its files, and its report."""

import contextlib
import io
import json
import os
import subprocess
import sys

import pytest
import torch
from hydra import compose, initialize_config_module

from reflow_lightning.cost.export import check_onnx
from reflow_lightning.experiments import collapsing
from reflow_lightning.experiments.data.digits import DigitsDataModule
from reflow_lightning.experiments.experiment import run
from reflow_lightning.experiments.models.resnet import ResNet
from reflow_lightning.experiments.search import search

SMALL = (
    "model.blocks=1",
    "reflow.calibration_batches=3",
    "title=test",
    "sparsity=0.95",
    "train=false",
    "collapse=true",
)
TWO = ("trainer.devices=2", "trainer.accelerator=cpu", "+trainer.strategy=ddp", "epochs=1", "train=true")
LIMITED = ("trainer.limit_train_batches=2", "trainer.limit_val_batches=1", "trainer.limit_test_batches=1")
APPLICATION = """
import os
from reflow_lightning.experiments import collapsing
from reflow_lightning.experiments.app import main

def fail(*args, **options):
    raise ValueError("this process can't")

if os.environ.get("LOCAL_RANK", "0") == os.environ["FAILING"]:
    collapsing.collapse = fail
main()
"""


def configuration(*overrides, name="config"):
    with initialize_config_module("reflow_lightning.conf", version_base="1.3"):
        return compose(name, overrides=[*SMALL, *overrides])


def held_out_images():
    data = DigitsDataModule()
    data.setup()
    return next(iter(data.test_dataloader()))[0]


def weights(path, prefix):
    state = torch.load(path, weights_only=True)["state_dict"]
    return {name.removeprefix(prefix): value for name, value in state.items()}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("dense") / "dense.th"
    torch.save({"state_dict": ResNet(1, in_channels=1).state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def printed(checkpoint, tmp_path_factory):
    """The folder of a run, and what it printed."""
    folder, text = tmp_path_factory.mktemp("collapsed"), io.StringIO()
    with contextlib.redirect_stdout(text):
        run(configuration(f"ckpt={checkpoint}"), folder)
    return folder, text.getvalue()


@pytest.fixture(scope="module")
def collapsed(printed):
    """The folder of a run, and its report."""
    return printed[0], json.loads((printed[0] / "report.json").read_text())


@pytest.fixture(scope="module")
def pruned(collapsed):
    net = ResNet(1, in_channels=1).eval()
    net.load_state_dict(weights(collapsed[0] / "pruned.ckpt", "net."))
    return net


def test_the_report_says_what_was_removed_what_was_left_and_what_it_saves(collapsed):
    section = collapsed[1]["collapse"]
    assert all(set(row) == {"what", "where", "why"} for row in [*section["removed"], *section["left"]])
    assert section["removed"]
    before, after = section["comparison"]["before"], section["comparison"]["after"]
    assert before["parameters"] == collapsed[1]["cost"]["parameters"]
    assert before["multiply_adds"] == collapsed[1]["cost"]["multiply_adds"]
    assert after["channels"] < before["channels"]
    assert after["multiply_adds"] < before["multiply_adds"]
    assert section["comparison"]["largest_difference"] < 1e-4


def test_the_collapsed_network_is_as_accurate(collapsed):
    assert collapsed[1]["collapse"]["accuracy"] == pytest.approx(collapsed[1]["repaired"], abs=1 / 360)


def test_the_files_hold_a_network_with_the_same_output(collapsed, pruned):
    folder, report = collapsed
    images = held_out_images()
    program = torch.export.load(folder / report["collapse"]["program"]["file"]).module()
    with torch.no_grad():
        torch.testing.assert_close(program(images), pruned(images), rtol=1e-4, atol=1e-4)
    assert check_onnx(pruned, images, folder / report["collapse"]["onnx"]["file"]) < 1e-4
    assert report["collapse"]["onnx"]["largest_difference"] < 1e-4


def test_both_tables_are_printed(printed):
    for word in ("channels", "multiply-adds", "times as fast", "accuracy of the collapsed network"):
        assert word in printed[1]


def test_without_the_onnx_packages_it_says_how_to_install_them(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    section = run(configuration(f"ckpt={checkpoint}"), tmp_path)["collapse"]
    assert section["onnx"] is None
    assert section["program"] == {"file": "collapsed.pt2"}
    assert not (tmp_path / "collapsed.onnx").exists()
    assert "no collapsed.onnx: ONNX needs further packages: pip install" in capsys.readouterr().out


def test_a_network_that_can_not_be_traced_is_collapsed_part_by_part(checkpoint, tmp_path, collapsed, monkeypatch):
    forward = ResNet.forward
    monkeypatch.setattr(ResNet, "forward", lambda self, x: forward(self, x) if x.isfinite().all() else x)
    section, whole = run(configuration(f"ckpt={checkpoint}"), tmp_path)["collapse"], collapsed[1]["collapse"]
    assert "cannot be used as inputs to control flow" in section["left"][0]["why"]
    before, after = section["comparison"]["before"], section["comparison"]["after"]
    assert whole["comparison"]["after"]["parameters"] <= after["parameters"] < before["parameters"]
    assert section["deviation"] < 1e-4


def test_an_error_of_the_collapse_is_told_and_ends_nothing(checkpoint, tmp_path, capsys, monkeypatch):
    def fails(*_, **__):
        raise ValueError("it does not work")

    monkeypatch.setattr(collapsing, "collapse", fails)
    report = run(configuration(f"ckpt={checkpoint}"), tmp_path)
    assert report["collapse"] == {"error": "ValueError: it does not work"}
    assert 0 <= report["repaired"] <= 1
    assert "not collapsed: ValueError: it does not work" in " ".join(capsys.readouterr().out.split())
    assert not list(tmp_path.glob("collapsed.*"))


def test_the_module_is_as_before_and_by_default_nothing_is_collapsed(checkpoint, tmp_path, collapsed):
    report = run(configuration(f"ckpt={checkpoint}", "collapse=false"), tmp_path)
    assert report["collapse"] is None
    assert not list(tmp_path.glob("collapsed.*"))
    states = [weights(folder / "pruned.ckpt", "net.") for folder in (tmp_path, collapsed[0])]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert report["validation"] == collapsed[1]["validation"]


def test_a_search_collapses_what_it_finds(checkpoint, tmp_path):
    report = search(configuration(f"ckpt={checkpoint}", "max_drop=1", name="search"), tmp_path)
    assert report["collapse"]["comparison"]["before"]["parameters"] == report["cost"]["parameters"]
    assert (tmp_path / "collapsed.pt2").exists()


@pytest.mark.distributed
@pytest.mark.parametrize("failing", ["none", "1"])
def test_of_several_processes_the_first_writes_and_none_waits_for_one_that_fails(failing, tmp_path):
    (tmp_path / "application.py").write_text(APPLICATION)
    command = [sys.executable, "application.py", *SMALL, *TWO, *LIMITED, "hydra.run.dir=out"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "FAILING": failing}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    section = json.loads((tmp_path / "out" / "report.json").read_text())["collapse"]
    files = {path.name for path in tmp_path.glob("out/collapsed.*")}
    if failing == "none":
        assert done.stdout.count("accuracy of the collapsed network") == 1
        assert section["comparison"]["largest_difference"] < 1e-4
        assert files == {"collapsed.pt2", "collapsed.onnx"}
    else:
        assert done.stdout.count("not collapsed: ") == 1
        assert "this process can't" in section["error"]
        assert not files
