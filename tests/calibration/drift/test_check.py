"""Every usual mistake in a calibration loader is found and named, and the training loader is left in peace."""

import copy
import math
import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from reflow_lightning import calibrate
from reflow_lightning.calibration.drift.check import DriftReport, check_drift, warn_of_drift
from reflow_lightning.calibration.drift.observing import merged, sample_moments
from reflow_lightning.running.forward import default_forward

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def augmented(x, generator, padding):
    """Random crops of the padded images, and flips."""
    n, c, h, w = x.shape
    padded = functional.pad(x, (padding,) * 4)
    down, right = (torch.randint(2 * padding + 1, (n, 1), generator=generator) for _ in "yx")
    rows = (down + torch.arange(h))[:, None, :, None]
    columns = (right + torch.arange(w))[:, None, None, :]
    crops = padded[torch.arange(n).view(-1, 1, 1, 1), torch.arange(c).view(1, -1, 1, 1), rows, columns]
    flip = torch.rand(n, generator=generator) < 0.5
    return torch.where(flip.view(-1, 1, 1, 1), crops.flip(-1), crops)


def normalised(x, mean=MEAN, std=STD):
    return (x - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)


class Loader:
    """Batches under a transform that may be wrong; ``pick`` chooses and orders the shuffled images."""

    def __init__(self, pixels, labels, padding):
        self.pixels, self.labels, self.padding = pixels, labels, padding

    def __call__(self, seed=0, size=128, count=10, pick=lambda labels: slice(None), augment=True, then=normalised):
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.labels), generator=generator)
        order = order[pick(self.labels[order])]
        order = order.repeat(math.ceil(size * count / len(order)))[: size * count]
        batches = []
        for indices in order.split(size):
            images = self.pixels[indices].float() / 255
            images = augmented(images, generator, self.padding) if augment else images
            batches.append((then(images), self.labels[indices]))
        return batches


def half_of_one_class(labels):
    chosen = torch.cat([torch.where(labels == 1)[0], torch.where(labels != 1)[0][: int((labels == 1).sum())]])
    return chosen[torch.randperm(len(chosen), generator=torch.Generator().manual_seed(0))]


MISTAKES = {
    "pixels in 0..255": ({"then": lambda x: x * 255}, "pixels in 0..255"),
    "pixels in 0..1": ({"then": lambda x: x}, "pixels in 0..1 "),
    "mean and std of one half": ({"then": lambda x: normalised(x, (0.5,) * 3, (0.5,) * 3)}, "another mean and std"),
    "BGR": ({"then": lambda x: normalised(x).flip(1)}, "BGR"),
    "no augmentation": ({"augment": False}, "no random crops"),
    "one class": ({"pick": lambda labels: labels == 1}, "one class only, all 1280 samples have label 1"),
    "half of one class": ({"pick": half_of_one_class}, "skewed data, label 1 on 5"),
    "two classes": ({"pick": lambda labels: labels < 2}, "skewed data, 2 of "),
}


@pytest.fixture(scope="module")
def coloured():
    """Four classes of gratings, each of a direction and a colour of its own, on 16x16 pixels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(2048) % 4
    angle = labels * math.pi / 4
    y, x = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    phase = 6.28 * torch.rand(2048, 1, 1, generator=generator)
    waves = torch.sin(x * torch.cos(angle).view(-1, 1, 1) + y * torch.sin(angle).view(-1, 1, 1) + phase)
    colours = torch.tensor([[170.0, 120.0, 60.0], [220.0, 100.0, 40.0], [140.0, 150.0, 50.0], [190.0, 140.0, 110.0]])
    noise = 20 * torch.randn(2048, 3, 16, 16, generator=generator)
    pixels = (colours[labels][:, :, None, None] + 35 * waves[:, None] + noise).clamp(0, 255).byte()
    return Loader(pixels, labels, padding=2)


@pytest.fixture(scope="module")
def model(coloured):
    """A network that remembers the training loader; it need not be good at anything."""
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU()),
        *(nn.Conv2d(12, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 24, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 4)),
    )
    calibrate(net, coloured(seed=99, count=20), max_batches=20)
    return net.eval()


@pytest.mark.parametrize(("size", "count"), [(128, 10), (32, 10), (64, 20)])
def test_the_training_loader_is_left_in_peace(model, coloured, size, count):
    for seed in range(5):
        report = check_drift(model, coloured(seed, size, count), max_batches=count)
        assert not report.drifted
        assert report.causes == ()
        assert report.batches == count


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found_and_named(model, coloured, mistake):
    arguments, cause = MISTAKES[mistake]
    report = check_drift(model, coloured(**arguments))
    assert report.drifted
    assert cause in report.causes[0]


def test_the_message_has_the_layer_and_what_was_measured(model, coloured):
    report = check_drift(model, coloured(then=lambda x: x * 255))
    worst = report.worst
    assert worst.distance == max(row.distance for row in report.layers)
    layer = model.get_submodule(worst.name)
    assert worst.stored[0] == pytest.approx(layer.running_mean[worst.channel].item())
    assert worst.stored[1] == pytest.approx(layer.running_var[worst.channel].sqrt().item())
    assert f"layer '{worst.name}' has stored mean {worst.stored[0]:.4g}" in str(report)
    assert "look at the transform of the calibration data" in str(report)


def test_class_sorted_batches_are_told_from_shuffled_ones_although_all_classes_are_there(model, coloured):
    report = check_drift(model, coloured(pick=lambda labels: torch.argsort(labels[:1280], stable=True)))
    assert report.drifted
    assert any("class-sorted data" in cause for cause in report.causes)


def test_one_class_is_found_without_labels_too(model, coloured):
    batches = [images for images, _ in coloured(pick=lambda labels: labels == 1)]
    report = check_drift(model, batches)
    assert report.drifted
    assert len(report.causes) == 1


def test_too_few_samples_are_no_drift_but_are_told(model, coloured):
    report = check_drift(model, coloured(size=4, count=2), max_batches=2)
    assert not report.drifted
    assert report.causes[0].startswith("too few samples: 8 ")


def test_a_network_without_batchnorm_has_nothing_to_compare_with():
    report = check_drift(nn.Linear(2, 2), [])
    assert (report.layers, report.causes, report.worst, report.drifted) == ((), (), None, False)
    assert "nothing tells" in str(report)


def test_values_that_are_not_finite_are_a_drift(model, coloured):
    batches = coloured()
    batches[3][0][0, 0, 0, 0] = float("nan")
    report = check_drift(model, batches)
    assert report.drifted
    assert "NaN" in report.causes[0]


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_of_the_model_changes(model, coloured, fails):
    model = copy.deepcopy(model).train()
    model[2].eval()
    before = copy.deepcopy(model.state_dict())
    flags, random = [module.training for module in model.modules()], torch.get_rng_state()
    batches = coloured(augment=False)
    if fails:
        with pytest.raises(RuntimeError):
            check_drift(model, [*batches[:3], (torch.zeros(2, 9, 5, 5),)])
    else:
        assert check_drift(model, batches).drifted
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_no_more_passes_than_batches_unless_something_has_drifted(model, coloured):
    passes = []

    def counted(net, batch):
        passes.append(1)
        return default_forward(net, batch)

    check_drift(model, coloured(count=12), counted)
    assert len(passes) == 10
    check_drift(model, coloured(count=12, augment=False), counted)
    assert len(passes) <= 10 + 20


def test_no_batch_is_an_error(model):
    with pytest.raises(ValueError, match="no batch"):
        check_drift(model, [])


def test_names_are_those_within_the_outer_module_and_dicts_have_labels(model, coloured):
    outer = nn.Module()
    outer.net = model
    batches = [{"image": images, "label": labels} for images, labels in coloured(pick=lambda labels: labels == 1)]
    report = check_drift(outer, batches, lambda module, batch: module.net(batch["image"]))
    assert report.worst.name.startswith("net.")
    assert "label 1" in report.causes[0]


def test_a_warning_comes_only_if_there_is_something_to_say(model, coloured):
    with pytest.warns(UserWarning, match="do not look like the training data: layer .* BGR"):
        warn_of_drift(check_drift(model, coloured(then=lambda x: normalised(x).flip(1))))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_drift(check_drift(model, coloured()))
        warn_of_drift(DriftReport(()))


@given(st.integers(0, 2**31), st.lists(st.integers(1, 6), min_size=1, max_size=5), st.sampled_from([(), (3,), (2, 2)]))
@settings(deadline=None, max_examples=40)
def test_sample_moments_are_those_of_numpy_whatever_the_split(seed, sizes, shape):
    values = torch.randn(sum(sizes), 3, *shape, generator=torch.Generator().manual_seed(seed)) + 2
    centre = torch.tensor([0.0, 1.0, 2.0])
    found = merged([sample_moments(part, centre) for part in values.split(sizes)])
    flat = values.numpy().reshape(len(values), 3, -1).astype(float)
    for place, each in enumerate((flat.mean(2), ((flat - centre.numpy()[:, None]) ** 2).mean(2))):
        expected = np.stack([np.full(3, len(values)), each.mean(0), each.var(0) * len(values)])
        np.testing.assert_allclose(found[place].numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def cifar10():
    parts = []
    for index in range(1, 6):
        file = Path(os.environ["REFLOW_DATA"]) / "cifar-10-batches-py" / f"data_batch_{index}"
        parts.append(pickle.loads(file.read_bytes(), encoding="latin1"))
    pixels = torch.tensor(np.concatenate([np.asarray(part["data"]) for part in parts])).view(-1, 3, 32, 32)
    return Loader(pixels, torch.tensor(np.concatenate([np.asarray(part["labels"]) for part in parts])), padding=4)


@pytest.fixture(scope="module")
def resnet20():
    from reflow_lightning.experiments.checkpoints import load_weights
    from reflow_lightning.experiments.models.resnet import ResNet

    net = ResNet(blocks=3)
    load_weights(net, Path(os.environ["REFLOW_DATA"]) / "weights" / "resnet20-12fca82f.th")
    return net


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("size", [128, 32])
def test_the_public_resnet20_knows_its_training_loader(resnet20, cifar10, size):
    for seed in range(3):
        report = check_drift(resnet20, cifar10(seed, size))
        assert not report.drifted
        assert report.causes == ()
        assert report.worst.distance < 0.06


PUBLIC = MISTAKES | {
    "the usual mean and std of CIFAR-10": (
        {"then": lambda x: normalised(x, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))},
        "another mean and std",
    ),
    "sorted": ({"pick": lambda labels: torch.argsort(labels, stable=True)}, "one class only"),
}


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("mistake", PUBLIC)
def test_a_mistake_with_the_public_resnet20_is_found_and_named(resnet20, cifar10, mistake):
    arguments, cause = PUBLIC[mistake]
    report = check_drift(resnet20, cifar10(**arguments))
    assert report.drifted
    assert cause in report.causes[0]
