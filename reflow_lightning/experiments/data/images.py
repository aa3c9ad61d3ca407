"""What the image data modules share: transforms, and views of a dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor
from torch.utils.data import Dataset

from reflow_lightning.experiments.models.hub import torchvision_weights

Transform = Callable[[Any], Tensor]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class TransformedView(Dataset[tuple[Tensor, int]]):
    """Some samples of a dataset of ``(image, class)`` under a transform.

    Args:
        dataset: Gives raw images.
        indices: Positions of the samples. ``None``: all.
        transform: Maps a raw image to a tensor.
    """

    def __init__(self, dataset: Dataset[Any], indices: Sequence[int] | None, transform: Transform) -> None:
        self.dataset = dataset
        self.indices = range(len(dataset)) if indices is None else list(indices)  # type: ignore[arg-type]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.dataset[self.indices[index]]
        return self.transform(image), label


def normalized(mean: Sequence[float], std: Sequence[float], *before: Any) -> Transform:
    """Transforms of raw images, then a float tensor (C, H, W), normalised by channel.

    Args:
        mean: Mean of each channel, of values in [0, 1].
        std: Standard deviation of each channel.
        before: Transforms that come first.
    """
    import torch
    from torchvision.transforms import v2

    transform: Transform = v2.Compose(
        [*before, v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]
    )
    return transform


@dataclass(frozen=True)
class Preprocessing:
    """How a network that was trained on ImageNet wants its images.

    Attributes:
        crop: Height and width of what the network sees in a test.
        resize: Length of the shorter side before the central crop.
        mean: Mean of each channel.
        std: Standard deviation of each channel.
        interpolation: ``"bilinear"`` or another mode of torchvision.
        train_crop: Height and width of what it sees in training. ``None``: the same.
    """

    crop: int = 224
    resize: int = 256
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"
    train_crop: int | None = None

    def evaluation(self) -> Transform:
        """Resize, and crop the centre."""
        from torchvision.transforms import InterpolationMode, v2

        mode = InterpolationMode(self.interpolation)
        return normalized(self.mean, self.std, v2.Resize(self.resize, mode), v2.CenterCrop(self.crop))

    def training(self) -> Transform:
        """Crop a random part of random size and aspect, and flip half of the images."""
        from torchvision.transforms import InterpolationMode, v2

        mode = InterpolationMode(self.interpolation)
        crop = v2.RandomResizedCrop(self.train_crop or self.crop, interpolation=mode)
        return normalized(self.mean, self.std, crop, v2.RandomHorizontalFlip())


def torchvision_preprocessing(name: str, weights: str | None = None) -> Preprocessing:
    """The preprocessing that an entry of torchvision's weights names.

    Args:
        name: Such as ``"resnet50"``.
        weights: Such as ``"IMAGENET1K_V2"`` or ``"DEFAULT"``. ``None``: the usual preprocessing.

    Example:
        >>> torchvision_preprocessing("resnet50", "IMAGENET1K_V2").resize
        232
    """
    if weights is None:
        return Preprocessing()
    chosen = torchvision_weights(name, weights).transforms()
    return Preprocessing(
        crop=chosen.crop_size[0],
        resize=chosen.resize_size[0],
        mean=tuple(chosen.mean),
        std=tuple(chosen.std),
        interpolation=chosen.interpolation.value,
    )


def timm_preprocessing(name: str) -> Preprocessing:
    """The preprocessing that timm's entry of a network names: in a test often larger images than in training."""
    import timm
    from timm.data.config import resolve_data_config

    entry = timm.get_pretrained_cfg(name)
    if entry is None:
        raise ValueError(f"name={name!r} is no network of timm: timm.list_pretrained() has all")
    chosen: dict[str, Any] = resolve_data_config(pretrained_cfg=entry.to_dict(), use_test_size=True)  # type: ignore[no-untyped-call]
    crop = chosen["input_size"][-1]
    return Preprocessing(
        crop=crop,
        resize=int(crop / chosen["crop_pct"]),
        mean=tuple(chosen["mean"]),
        std=tuple(chosen["std"]),
        interpolation=chosen["interpolation"],
        train_crop=entry.input_size[-1],
    )


CalibrationTransform = Literal["train", "test"]


def check_calibration_transform(name: str) -> None:
    """Check that the name is known.

    Raises:
        ValueError: If it is not.
    """
    if name not in ("train", "test"):
        raise ValueError(f"calibration_transform={name!r} must be 'train' (with augmentation, the default) or 'test'")
