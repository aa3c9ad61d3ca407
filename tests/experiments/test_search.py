"""`reflow-lightning search`: the command, its results, and its refusals."""

import json
import sys

import pytest
import torch
from helpers import zeros
from hydra import compose, initialize_config_module
from scenarios.commands import application

from reflow_lightning import Masks, find_sparsity
from reflow_lightning.experiments.app import main
from reflow_lightning.experiments.checkpoints import load_weights
from reflow_lightning.experiments.data.cifar10 import CIFAR10DataModule
from reflow_lightning.experiments.experiment import run
from reflow_lightning.experiments.models.resnet import ResNet
from reflow_lightning.experiments.overrides import complaints
from reflow_lightning.experiments.resume import is_unfinished
from reflow_lightning.experiments.saved_trials import SavedTrials
from reflow_lightning.experiments.search import found_sparsity, search
from reflow_lightning.experiments.unfinished import is_same

SMALL = ("epochs=1", "model.blocks=1", "reflow.calibration_batches=3", "tolerance=0.1")


def configuration(*overrides, name="search"):
    with initialize_config_module("reflow_lightning.conf", version_base="1.3"):
        return compose(name, overrides=["title=test", *overrides])


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    return folder, search(configuration(*SMALL, "max_drop=0.1"), folder)


def test_the_report_holds_all_trials_and_what_was_found(small):
    folder, report = small
    details = report["search"]
    written = json.loads((folder / "report.json").read_text())
    assert written["search"] == details
    assert written.keys() == report.keys()
    measured = {trial["sparsity"]: trial["score"] for trial in details["trials"]} | {0.0: details["dense"]}
    assert measured[report["sparsity"]] == report["validation"] == details["found"]
    assert details["found"] >= details["dense"] - 0.1 - 1e-6
    assert [t["within"] for t in details["trials"]] == [
        t["score"] >= details["dense"] - 0.1 - 1e-6 for t in details["trials"]
    ]
    assert found_sparsity(report) == report["sparsity"]
    assert (folder / "search.png").read_bytes().startswith(b"\x89PNG")


def test_the_network_is_tested_dense_pruned_and_repaired_once_each(small):
    report = small[1]
    sparsities = [report["stages"][stage]["sparsity"] for stage in ("dense", "pruned", "repaired")]
    assert sparsities == pytest.approx([0, report["sparsity"], report["sparsity"]])
    assert {details["step"] for details in report["stages"].values()} == {20}


def test_but_for_a_rehearsal_the_test_data_are_not_asked_for_until_all_is_chosen(tmp_path, monkeypatch):
    from reflow_lightning.experiments.data.digits import DigitsDataModule

    asked = []
    test, val = DigitsDataModule.test_dataloader, DigitsDataModule.val_dataloader
    monkeypatch.setattr(DigitsDataModule, "test_dataloader", lambda self: asked.append("test") or test(self))
    monkeypatch.setattr(DigitsDataModule, "val_dataloader", lambda self: asked.append("val") or val(self))
    search(configuration(*SMALL), tmp_path)
    assert asked[:2] == ["val", "test"]
    chosen = asked[2:].index("test")
    assert set(asked[2:][:chosen]) == {"val"}
    assert set(asked[2:][chosen:]) == {"test"}


@pytest.mark.parametrize("trained", [True, False])
def test_a_search_that_was_stopped_makes_no_trial_twice_but_the_one_it_finds(trained, small, tmp_path, monkeypatch):
    ways = () if trained else (f"ckpt={small[0] / 'pruned.ckpt'}", "train=false")
    cfg = configuration(*SMALL, "max_drop=0.1", *ways)
    (tmp_path / "whole").mkdir()
    whole = search(cfg, tmp_path / "whole")
    folder, kept = tmp_path / "stopped", SavedTrials.__setitem__

    def stop(self, asked, trial):
        kept(self, asked, trial)
        if len(self) == 3:
            raise KeyboardInterrupt

    folder.mkdir()
    monkeypatch.setattr(SavedTrials, "__setitem__", stop)
    with pytest.raises(KeyboardInterrupt):
        search(cfg, folder)
    monkeypatch.setattr(SavedTrials, "__setitem__", kept)
    assert is_unfinished(folder)
    assert is_same(cfg, folder)
    with pytest.raises(ValueError, match=r"tolerance=0.1, now 0.2"):
        search(configuration(*SMALL, "max_drop=0.1", *ways, "tolerance=0.2", "resume=true"), folder)
    made = []
    monkeypatch.setattr(SavedTrials, "__setitem__", lambda *of: made.append(of) or kept(*of))
    report = search(configuration(*SMALL, "max_drop=0.1", *ways, "resume=true"), folder)
    assert len(made) == len(whole["search"]["trials"]) - 3 + 1
    untimed = [{**trial, "seconds": 0} for trial in report["search"]["trials"]]
    assert untimed == [{**trial, "seconds": 0} for trial in whole["search"]["trials"]]
    assert report["stages"] == whole["stages"]
    assert not is_unfinished(folder)


def test_trials_of_other_settings_are_not_taken_even_by_force(small, tmp_path, monkeypatch):
    ways = (f"ckpt={small[0] / 'pruned.ckpt'}", "train=false", "max_drop=0.1")
    kept = SavedTrials.__setitem__

    def stop(self, asked, trial):
        kept(self, asked, trial)
        if len(self) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(SavedTrials, "__setitem__", stop)
    with pytest.raises(KeyboardInterrupt):
        search(configuration(*SMALL, *ways), tmp_path)
    monkeypatch.setattr(SavedTrials, "__setitem__", kept)
    forced = search(configuration(*SMALL, *ways, "repair=none", "resume=force"), tmp_path)
    (tmp_path / "alone").mkdir()
    alone = search(configuration(*SMALL, *ways, "repair=none"), tmp_path / "alone")
    assert forced["stages"] == alone["stages"]
    assert [trial["score"] for trial in forced["search"]["trials"]] == [t["score"] for t in alone["search"]["trials"]]


def test_the_dense_network_is_that_of_a_normal_run(small, tmp_path):
    overrides = [override for override in SMALL if not override.startswith("tolerance")]
    assert run(configuration(*overrides, name="config"), tmp_path)["dense"] == small[1]["dense"]


def test_the_network_found_loads_and_its_zeros_are_those_of_the_masks(small):
    folder, report = small
    content = torch.load(folder / "pruned.ckpt", weights_only=True)
    net = ResNet(1, in_channels=1)
    load_weights(net, folder / "pruned.ckpt")
    [state] = content["callbacks"].values()
    masks = Masks.from_state_dict(state["masks"])
    assert masks.sparsity == report["sparsity"]
    assert zeros(net) == sum(int((~mask).sum()) for mask in masks.values())


def test_with_nothing_within_the_drop_the_dense_network_is_reported(tmp_path):
    overrides = ("max_drop=0", "tolerance=0.3", "repair=none", "min_kept=0", "include=['net.linear.*']")
    with pytest.warns(UserWarning, match="no sparsity that was tried"):
        report = search(configuration(*SMALL, *overrides, "epochs=2", "criterion=random"), tmp_path)
    assert report["sparsity"] == 0
    assert report["dense"] == report["repaired"]
    assert (tmp_path / "search.png").exists()


def test_a_checkpoint_is_searched_without_training(small, tmp_path):
    report = search(configuration(*SMALL, f"ckpt={small[0] / 'pruned.ckpt'}", "train=false", "max_drop=1"), tmp_path)
    assert report["sparsity"] >= 0.9
    assert {details["step"] for details in report["stages"].values()} == {0}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("max_drop=-1",), "max_drop=-1 must be a number of at least 0"),
        (("train=false",), "train=false needs a network that is trained"),
        (("metric=f1",), "metric=f1 is not among what the test logs: loss, accuracy"),
        (("trainer.devices=2", "trainer.accelerator=cpu"), "trainer.devices=2: it runs in one process, use 1"),
    ],
)
def test_faults_are_errors_that_name_them(overrides, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        search(configuration(*SMALL, *overrides), tmp_path)


def test_a_loss_counts_the_other_way_round(tmp_path):
    report = search(configuration(*SMALL, "metric=loss", "mode=min", "max_drop=0.5"), tmp_path)
    assert 0 < report["search"]["found"] <= report["search"]["dense"] + 0.5 + 1e-6


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["max_dorp=0.1"], "'max_dorp' is no key; nearest: max_drop"),
        (["max_drop=much"], "max_drop=much is no number; the default is 0.01"),
        (["sparsity=0.9"], "sparsity= has no meaning in a search"),
        (["schedule=gradual"], "schedule= has no meaning in a search"),
        (["model=resnet21"], "model=resnet21 is no choice; nearest: resnet"),
    ],
)
def test_a_mistyped_override_is_answered(arguments, complaint):
    [found] = complaints(arguments, "search")
    assert complaint in found


@pytest.mark.parametrize("arguments", [["max_drop=0.05", "model=resnet32"], ["-m", "max_drop=0.01,0.05"]])
def test_the_keys_of_a_search_are_known_to_it_alone(arguments):
    assert complaints(arguments, "search") == []
    assert "'max_drop' is no key" in complaints(arguments)[0]


def test_the_word_comes_first_and_faults_end_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["reflow-lightning", "search", "sparcity=1"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "reflow-lightning search --help lists all keys" in capsys.readouterr().err


def test_help_tells_of_the_search():
    with initialize_config_module("reflow_lightning.conf", version_base="1.3"):
        helps = [compose(name, return_hydra_config=True).hydra.help for name in ("config", "search")]
    assert "reflow-lightning search max_drop=0.01" in helps[0].footer
    assert "reflow-lightning search -m max_drop=0.01,0.05" in helps[1].footer
    assert helps[1].header.startswith("reflow-lightning search trains or loads a network")


def test_a_sweep_of_searches_ends_with_a_summary(tmp_path):
    done = application(tmp_path, "search", "-m", "max_drop=0.1,-1", *SMALL)
    assert done.status == 1, done.text
    assert "Trials" in done.text
    assert "2 jobs, 1 failed: 1" in done.text
    assert "max_drop=-1 must be a number of at least 0" in done.text
    [summary] = tmp_path.glob("multirun/*/*/summary.csv")
    assert "0.1" in summary.read_text()


@pytest.mark.slow
@pytest.mark.data
def test_a_public_resnet_goes_sparser_for_a_larger_drop(real_data):
    data = CIFAR10DataModule(
        real_data, verify=False, download=False, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    data.setup()
    net = ResNet(3)
    load_weights(net, real_data / "weights" / "resnet20-12fca82f.th")
    images, classes = zip(*(data.splits["test"][i] for i in range(400)), strict=True)
    images, classes = torch.stack(images), torch.tensor(classes)

    @torch.no_grad()
    def accuracy(net):
        return float((torch.cat([net(part) for part in images.split(250)]).argmax(1) == classes).float().mean())

    found = []
    for max_drop in (0.01, 0.05):
        result = find_sparsity(net, data.calibration_dataloader(), accuracy, max_drop=max_drop, max_batches=2)
        assert result.score >= result.dense_score - max_drop - 1e-6
        found.append(result.sparsity)
        result.undo()
    assert 0.35 <= found[0] < found[1] <= 0.8
