import hashlib
import pickle
import tarfile

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from reflow_lightning.experiments.data.cifar10 import CIFAR10DataModule

FOLDER = "cifar-10-batches-py"
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)


def batch(n, seed, white=False):
    generator = np.random.default_rng(seed)
    images = np.full((n, 3072), 255) if white else generator.integers(256, size=(n, 3072))
    return {"data": images.astype(np.uint8), "labels": [i % 10 for i in range(n)]}


def write(folder, white=False):
    """Fifty training images in each of the files, and twenty test images, in the layout of the original."""
    files = folder / FOLDER
    files.mkdir(parents=True)
    for i in range(1, 6):
        (files / f"data_batch_{i}").write_bytes(pickle.dumps(batch(50, i, white)))
    (files / "test_batch").write_bytes(pickle.dumps(batch(20, 6, white)))
    (files / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {i}" for i in range(10)]}))
    return folder


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def ready(folder, **options):
    data = CIFAR10DataModule(folder, verify=False, mean=MEAN, std=STD, **options)
    data.prepare_data()
    data.setup()
    return data


def raw(split):
    return {split.dataset.data[i].tobytes() for i in split.indices}


def test_splits_are_disjoint_and_stratified(tmp_path):
    data = ready(write(tmp_path), val_share=0.2)
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 200,
        "calibration": 200,
        "val": 50,
        "test": 20,
    }
    train, val, test = (raw(data.splits[name]) for name in ("train", "val", "test"))
    assert len(train | val | test) == 270
    assert raw(data.splits["calibration"]) == train
    labels = [label for _, label in data.splits["val"]]
    assert sorted(labels) == sorted([*range(10)] * 5)


def test_the_seed_chooses_the_validation_images(tmp_path):
    write(tmp_path)
    first, again, other = (raw(ready(tmp_path, seed=seed).splits["val"]) for seed in (0, 0, 1))
    assert first == again != other


def test_batches_are_normalised_images(tmp_path):
    images, labels = next(iter(ready(write(tmp_path)).test_dataloader()))
    assert images.shape == (20, 3, 32, 32)
    assert labels.tolist() == [i % 10 for i in range(20)]
    expected = torch.from_numpy(batch(20, 6)["data"]).view(20, 3, 32, 32) / 255
    expected = (expected - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    torch.testing.assert_close(images, expected)


def test_images_are_scaled_for_networks_of_imagenet(tmp_path):
    small, large = (ready(write(tmp_path / str(size)), image_size=size) for size in (32, 64))
    for split in ("train", "calibration", "val", "test"):
        assert large.splits[split][0][0].shape == (3, 64, 64)
    halved = torch.nn.functional.avg_pool2d(large.splits["test"][0][0], 2)
    assert (halved - small.splits["test"][0][0]).abs().mean() < 0.5  # of noise, whose deviation is above one


def test_padding_is_black_before_it_is_normalised(tmp_path):
    data = ready(write(tmp_path, white=True), padding=8)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    images = torch.stack([image for image, _ in data.splits["train"]])
    black, white = ((images - (value - mean) / std).abs().amax(1) < 1e-4 for value in (0.0, 1.0))
    assert (black | white).all()
    assert black[:, 0, 0].any()
    assert white[:, 16, 16].all()


def test_reflected_padding_is_not_black(tmp_path):
    data = ready(write(tmp_path, white=True), padding_mode="reflect")
    assert all(image[0].min() > 2 for image, _ in data.splits["train"])


@pytest.mark.parametrize(("transform", "changes"), [("train", True), ("test", False)])
def test_calibration_augments_by_default_and_not_on_request(transform, changes, tmp_path):
    options = {} if transform == "train" else {"calibration_transform": "test"}
    data = ready(write(tmp_path), **options)
    views = data.splits["calibration"]
    assert any(not torch.equal(views[i][0], views[i][0]) for i in range(20)) == changes
    images, _ = next(iter(data.calibration_dataloader()))
    assert images.shape == (128, 3, 32, 32)


def test_validation_and_test_are_never_augmented(tmp_path):
    data = ready(write(tmp_path))
    for name in ("val", "test"):
        assert all(torch.equal(data.splits[name][i][0], data.splits[name][i][0]) for i in range(20))


def test_a_copy_that_was_packed_anew_is_refused_and_left_alone(tmp_path):
    before = contents(write(tmp_path))
    data = CIFAR10DataModule(tmp_path)
    data.prepare_data()
    with pytest.raises(ValueError, match=r"not the original ones: unpack https.*or set verify=False"):
        data.setup()
    assert contents(tmp_path) == before


def shorten(path):
    path.write_bytes(path.read_bytes()[:1000])


def drop_labels(path):
    path.write_bytes(pickle.dumps({**batch(50, 1), "labels": [0] * 49}))


def drop_pixels(path):
    path.write_bytes(pickle.dumps({"data": np.zeros((50, 3000), np.uint8), "labels": [0] * 50}))


@pytest.mark.parametrize(
    "damage",
    [shorten, drop_labels, drop_pixels, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"z" * 99)],
)
def test_a_damaged_file_is_a_clear_error(damage, tmp_path):
    damage(write(tmp_path) / FOLDER / "data_batch_3")
    with pytest.raises(ValueError, match=rf"a file in .*{FOLDER} is damaged \(.*\): unpack https"):
        ready(tmp_path)


@pytest.mark.parametrize("missing", ["data_batch_5", "test_batch", "batches.meta"])
def test_a_missing_file_is_an_error_with_a_remedy(missing, tmp_path):
    (write(tmp_path) / FOLDER / missing).unlink()
    with pytest.raises(FileNotFoundError, match=r"no complete CIFAR-10 in .*: unpack https"):
        ready(tmp_path)


def test_a_missing_folder_is_one_too(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no complete CIFAR-10 in .*: unpack https"):
        ready(tmp_path, download=False)


@pytest.fixture
def served(tmp_path, monkeypatch, serve):
    """An archive of generated files in the place of the original, with its checksums."""
    files = write(tmp_path / "server")
    archive = tmp_path / "server" / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(files / FOLDER, FOLDER)

    def digest(path):
        return hashlib.md5(path.read_bytes()).hexdigest()

    monkeypatch.setattr(CIFAR10, "url", f"{serve(archive.parent)}/{archive.name}")
    monkeypatch.setattr(CIFAR10, "tgz_md5", digest(archive))
    for name in ("train_list", "test_list"):
        monkeypatch.setattr(CIFAR10, name, [[n, digest(files / FOLDER / n)] for n, _ in getattr(CIFAR10, name)])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": digest(files / FOLDER / "batches.meta")})
    return archive


def test_what_is_absent_is_downloaded_once(served, tmp_path):
    data = CIFAR10DataModule(tmp_path / "data", val_share=0.2)
    data.prepare_data()
    data.setup()
    assert len(data.splits["train"]) == 200
    served.unlink()
    CIFAR10DataModule(tmp_path / "data").prepare_data()


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), shorten])
def test_a_failed_download_is_a_clear_error(damage, served, tmp_path):
    damage(served)
    with pytest.raises(RuntimeError, match=r"could not download CIFAR-10 \(.*\): unpack https"):
        CIFAR10DataModule(tmp_path / "data").prepare_data()


def test_an_unknown_calibration_transform_is_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match="calibration_transform='val'"):
        CIFAR10DataModule(tmp_path, calibration_transform="val")


@pytest.mark.data
def test_real_images(real_data):
    data = CIFAR10DataModule(real_data, verify=False, download=False)
    data.setup()
    train, val = len(data.splits["train"]), len(data.splits["val"])
    assert val == round(0.1 * (train + val))
    assert len(data.splits["test"]) == 10_000
    images = torch.cat([images for images, _ in data.val_dataloader()])
    assert images.mean((0, 2, 3)).abs().max() < 0.1
    assert 0.9 < images.std() < 1.4  # the usual deviations are means of those of single images
