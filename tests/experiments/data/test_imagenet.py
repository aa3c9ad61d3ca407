import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from reflow_lightning.experiments.data.imagenet import ImageNetDataModule
from reflow_lightning.experiments.data.images import Preprocessing

SMALL = Preprocessing(crop=16, resize=20)
CLASSES = ("n01", "n02", "n03")


def write(folder, train="train", test="val"):
    """Ten training and two test images a class, of noise."""
    generator = np.random.default_rng(0)
    for split, n in ((train, 10), (test, 2)):
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True)
            for i in range(n):
                pixels = generator.integers(256, size=(30, 24 + i, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.JPEG")
    return folder


def ready(folder, **options):
    data = ImageNetDataModule(folder, **{"preprocessing": SMALL, "val_share": 0.2, "num_workers": 0, **options})
    data.prepare_data()
    data.setup()
    return data


def files(split):
    return {split.dataset.samples[i][0] for i in split.indices}


def test_splits_are_disjoint_and_stratified_and_val_is_the_test_set(tmp_path):
    data = ready(write(tmp_path))
    train, val, test = (files(data.splits[name]) for name in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (24, 6, 6)
    assert not train & val
    assert all(str(tmp_path / "val") in path for path in test)
    assert files(data.splits["calibration"]) == train
    assert sorted(label for _, label in data.splits["val"]) == [0, 0, 1, 1, 2, 2]


def test_batches(tmp_path):
    data = ready(write(tmp_path), batch_size=6, calibration_batch_size=5)
    for loader, size in ((data.train_dataloader(), 6), (data.test_dataloader(), 6), (data.calibration_dataloader(), 5)):
        images, labels = next(iter(loader))
        assert images.shape == (size, 3, 16, 16)
        assert images.dtype == torch.float32
        assert set(labels.tolist()) <= {0, 1, 2}


def test_a_worker_gives_the_same(tmp_path):
    write(tmp_path)
    here, there = (ready(tmp_path, num_workers=n).test_dataloader() for n in (0, 1))
    assert there.num_workers == 1
    for (images, labels), (others, other_labels) in zip(here, there, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, other_labels)


@pytest.mark.parametrize(("transform", "changes"), [("train", True), ("test", False)])
def test_calibration_augments_by_default_and_not_on_request(transform, changes, tmp_path):
    options = {} if transform == "train" else {"calibration_transform": "test"}
    views = ready(write(tmp_path), **options).splits["calibration"]
    assert (not torch.equal(views[0][0], views[0][0])) == changes


def test_grey_images_have_three_channels(tmp_path):
    write(tmp_path)
    Image.new("L", (30, 30), 128).save(tmp_path / "val" / "n01" / "0.JPEG")
    Image.new("RGBA", (30, 30)).save(tmp_path / "val" / "n01" / "1.png")
    assert all(image.shape == (3, 16, 16) for image, _ in ready(tmp_path).splits["test"])


def test_folders_of_other_names(tmp_path):
    data = ready(write(tmp_path, train="images", test="held_out"), train="images", test="held_out")
    assert len(data.splits["test"]) == 6


@pytest.mark.parametrize("missing", ["train", "val"])
@pytest.mark.parametrize("empty", [True, False])
def test_a_missing_or_empty_folder_is_answered_with_the_layout(missing, empty, tmp_path):
    shutil.rmtree(write(tmp_path) / missing)
    if empty:
        (tmp_path / missing).mkdir()
    with pytest.raises(
        FileNotFoundError, match=rf"no images in .*{missing} .*train/<class>/ and .*ILSVRC2012_img_train"
    ):
        ready(tmp_path)


def test_a_class_without_images_is_named(tmp_path):
    for path in (write(tmp_path) / "train" / "n02").iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match="n02"):
        ready(tmp_path)


def test_classes_that_differ_are_named(tmp_path):
    (write(tmp_path) / "val" / "n03").rename(tmp_path / "val" / "n04")
    with pytest.raises(ValueError, match=r"train/ and val/ differ in the class folders \['n03', 'n04'\]"):
        ready(tmp_path)


@pytest.mark.parametrize("keep", [0, 200, 600])
def test_a_damaged_image_is_named(keep, tmp_path):
    path = write(tmp_path) / "val" / "n02" / "1.JPEG"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"n02/1\.JPEG is no image, or a damaged one"):
        list(ready(tmp_path).test_dataloader())


def test_also_by_a_worker(tmp_path):
    (write(tmp_path) / "val" / "n02" / "1.JPEG").write_text("nothing")
    with pytest.raises(ValueError, match=r"n02/1\.JPEG is no image, or a damaged one"):
        list(ready(tmp_path, num_workers=1).test_dataloader())


def test_archives_are_unpacked_where_folders_are_missing(tmp_path, monkeypatch):
    unpacked = []
    monkeypatch.setattr("torchvision.datasets.ImageNet", lambda folder, split: unpacked.append((folder, split)))
    data = ImageNetDataModule(tmp_path)
    data.prepare_data()
    assert unpacked == []
    for name in ("ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"):
        (tmp_path / name).touch()
    (tmp_path / "train").mkdir()
    data.prepare_data()
    assert unpacked == [(tmp_path, "val")]
    (tmp_path / "train").rmdir()
    data.prepare_data()
    assert unpacked[1:] == [(tmp_path, "train"), (tmp_path, "val")]


def test_the_usual_preprocessing_and_a_worker_a_core_by_default(tmp_path, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    data = ImageNetDataModule(tmp_path)
    assert data.preprocessing == Preprocessing(crop=224, resize=256)
    assert data.num_workers == 8


@pytest.mark.data
def test_real_images_in_one_folder_a_class(real_data):
    data = ImageNetDataModule(real_data, train="imagenet_sample", test="imagenet_sample", val_share=0.6, num_workers=1)
    data.setup()
    assert len(data.splits["test"]) == 1000
    images, labels = next(iter(data.test_dataloader()))
    assert images.shape == (256, 3, 224, 224)
    assert labels.tolist() == list(range(256))
