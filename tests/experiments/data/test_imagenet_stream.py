import pytest
import torch
from scenarios.datasets import make_imagenet

from reflow_lightning.experiments.data.imagenet import ImageNetDataModule
from reflow_lightning.experiments.data.imagenet_stream import StreamedImageNetDataModule, write_stream
from reflow_lightning.experiments.data.images import Preprocessing
from reflow_lightning.running.fresh import fresh

pytest.importorskip("litdata")
SMALL = {"preprocessing": Preprocessing(crop=32, resize=36), "val_share": 0.25, "batch_size": 4, "num_workers": 0}


def labels(loader):
    return torch.cat([classes for _, classes in loader]).tolist()


def contents(loader):
    """Every image with its class, in whatever order they come."""
    return sorted(
        (int(label), image.tolist()) for images, classes in loader for image, label in zip(images, classes, strict=True)
    )


def test_a_missing_stream_is_answered_with_the_command_that_makes_it(tmp_path):
    data = StreamedImageNetDataModule(tmp_path, **SMALL)
    with pytest.raises(FileNotFoundError, match=r"make it with python -m reflow_lightning\S+imagenet_stream"):
        data.setup()


@pytest.mark.slow
def test_the_stream_gives_the_images_of_the_folders(tmp_path):
    folder = make_imagenet(tmp_path) / "imagenet"
    for split in ("train", "val"):
        write_stream(folder / split, tmp_path / "stream" / split)
    data = StreamedImageNetDataModule(tmp_path / "stream", calibration_batch_size=5, **SMALL)
    data.setup()
    plain = ImageNetDataModule(folder, **SMALL)
    plain.setup()
    assert contents(data.test_dataloader()) == contents(plain.test_dataloader())
    train, val = labels(data.train_dataloader()), labels(data.val_dataloader())
    assert (len(train), len(val)) == (18, 6)
    assert sorted(train + val) == sorted([0, 1, 2] * 8)
    assert train != sorted(train)  # shuffled
    calibration = list(fresh(data.calibration_dataloader(), shuffle=True, seed=0))
    assert sum(len(classes) for _, classes in calibration) == 18


@pytest.mark.slow
def test_all_classes_are_in_every_part_although_files_of_a_stream_stay_whole(tmp_path):
    folder = make_imagenet(tmp_path, images=40) / "imagenet"
    for split in ("train", "val"):
        write_stream(folder / split, tmp_path / "stream" / split, chunk_bytes=40_000)  # about ten images
    assert len(list((tmp_path / "stream" / "train").glob("*.bin"))) > 5
    data = StreamedImageNetDataModule(tmp_path / "stream", calibration_batch_size=16, **SMALL)
    data.setup()
    assert set(labels(data.val_dataloader())) == {0, 1, 2}
    for _, classes in list(data.calibration_dataloader())[:-1]:
        assert len(set(classes.tolist())) == 3
