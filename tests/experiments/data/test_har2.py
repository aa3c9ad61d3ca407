import pytest
import torch
from scenarios.datasets import members, write_folder, write_zip

from reflow_lightning.experiments.data import har2
from reflow_lightning.experiments.data.har2 import HAR2DataModule
from reflow_lightning.experiments.data.har_files import download


def ready(folder, **options):
    data = HAR2DataModule(folder, **options)
    data.prepare_data()
    data.setup()
    return data


def gathered(loader):
    windows, classes = zip(*loader, strict=True)
    return torch.cat(windows), torch.cat(classes)


@pytest.mark.parametrize(("task", "classes"), [("har2", [0, 1, 0, 1, 0, 1]), ("activities", [0, 1, 2, 3, 4, 5])])
def test_classes(task, classes, tmp_path):
    data = ready(write_folder(tmp_path, members(train=60, test=12)), task=task)
    assert gathered(data.test_dataloader())[1].tolist() == 2 * classes


def test_windows_are_held_out_by_class(tmp_path):
    write_folder(tmp_path, members(train=60, test=12))
    data = ready(tmp_path, task="activities", validation="windows", val_share=0.2)
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 48,
        "calibration": 48,
        "val": 12,
        "test": 12,
    }
    assert sorted(gathered(data.val_dataloader())[1].tolist()) == sorted([*range(6)] * 2)


def test_subjects_are_held_out_whole(tmp_path):
    files = members(train=60, test=12)
    files["train/Inertial Signals/body_acc_x_train.txt"] = "\n".join(
        " ".join([str(1 + i % 4)] * 128) for i in range(60)
    )
    data = ready(write_folder(tmp_path, files), validation="subjects", val_share=0.25)
    val, train = (gathered(loader)[0][:, 0, 0] for loader in (data.val_dataloader(), data.train_dataloader()))
    assert (len(val), len(train)) == (15, 45)
    assert len(val.unique()) == 1
    assert val[0] not in train


def test_the_seed_chooses_the_validation_windows(tmp_path):
    write_folder(tmp_path, members(train=60, test=12))
    first, again, other = (gathered(ready(tmp_path, seed=seed).val_dataloader())[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_windows_are_normalised_by_the_training_windows_alone(tmp_path):
    same = ready(write_folder(tmp_path / "same", members(train=60, test=12)))
    shifted = ready(write_folder(tmp_path / "shifted", members(train=60, test=12, shift=5.0)))
    assert torch.equal(gathered(same.val_dataloader())[0], gathered(shifted.val_dataloader())[0])
    moved = gathered(shifted.test_dataloader())[0] - gathered(same.test_dataloader())[0]
    assert moved.mean() == pytest.approx(5, rel=0.1)  # the deviations are one
    windows = gathered(same.val_dataloader())[0]
    assert windows.shape[1:] == (128, 9)
    assert windows.mean((0, 1)).abs().max() < 0.2


def test_a_value_that_never_changes_is_no_division_by_zero(tmp_path):
    files = members(train=60, test=12)
    name = "train/Inertial Signals/body_acc_x_train.txt"
    files[name] = "\n".join(" ".join(["2.5"] * 128) for _ in range(60))
    assert torch.isfinite(gathered(ready(write_folder(tmp_path, files)).val_dataloader())[0]).all()


def test_what_is_absent_is_downloaded(serve, tmp_path, monkeypatch):
    archive = write_zip(tmp_path / "server" / "har.zip", members(train=60, test=12))
    url = f"{serve(archive.parent)}/har.zip"
    monkeypatch.setattr(har2, "download", lambda folder: download(folder, url))
    assert len(ready(tmp_path / "data").splits["test"]) == 12
    archive.unlink()
    assert len(ready(tmp_path / "data").splits["test"]) == 12  # now it is there


def test_activities_outside_the_six_are_refused(tmp_path):
    files = members(train=60, test=12)
    files["train/y_train.txt"] = files["train/y_train.txt"].replace("6", "7")
    with pytest.raises(ValueError, match=r"activities must be 1 to 6, there are \[7\]"):
        ready(write_folder(tmp_path, files))


def test_unknown_choices_are_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match="validation='rows' must be 'subjects' or 'windows'"):
        HAR2DataModule(tmp_path, validation="rows")
    with pytest.raises(ValueError, match=r"task='har3' is unknown: use one of \['activities', 'har2'\]"):
        HAR2DataModule(tmp_path, task="har3")


@pytest.mark.data
def test_real_windows(real_data):
    data = ready(real_data)
    assert len(data.splits["train"]) + len(data.splits["val"]) == 7352
    windows, classes = gathered(data.test_dataloader())
    assert windows.shape == (2947, 128, 9)
    assert classes.unique().tolist() == [0, 1]
    assert windows.mean().abs() < 0.2
