"""Networks of torchvision and timm, by name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn

_TENSORS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


def torchvision_weights(name: str, weights: str) -> Any:
    """An entry of the weights of a network of ``torchvision.models``.

    Args:
        name: Such as ``"resnet50"``.
        weights: Such as ``"IMAGENET1K_V2"`` or ``"DEFAULT"``.

    Raises:
        ValueError: If there is no such network, or no such entry.
    """
    from torchvision.models import get_model_weights

    entries = get_model_weights(name).__members__
    if weights not in entries:
        raise ValueError(f"weights={weights!r} are none of {name!r}: use one of {', '.join(entries)}")
    return entries[weights]


def torchvision_model(name: str, weights: str | None = None, num_classes: int | None = None) -> nn.Module:
    """A network of ``torchvision.models``.

    Args:
        name: Such as ``"resnet50"``; ``torchvision.models.list_models()`` has all.
        weights: Name of an entry of its weights, such as ``"IMAGENET1K_V2"``, or ``"DEFAULT"`` for the best. ``None``:
            random ones.
        num_classes: Number of classes. ``None``: as many as the weights have, or 1000.

    Raises:
        ValueError: If the name or the weights are unknown, or these are for another number of classes.
    """
    from torchvision.models import get_model

    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    entry = None if weights is None else torchvision_weights(name, weights)
    with _tensors_only(name, weights):
        model: nn.Module = get_model(name, weights=entry, **options)
    return model


@contextmanager
def _tensors_only(name: str, weights: str | None) -> Iterator[None]:
    """Have torch run no code of the files that it loads; torchvision does not ask for that itself."""
    before = os.environ.get(_TENSORS_ONLY)
    os.environ[_TENSORS_ONLY] = "1"
    try:
        yield
    except UnpicklingError as error:
        raise ValueError(
            f"weights={weights!r} of {name!r} hold more than tensors, and what that is was not run: delete their file "
            f"below {torch.hub.get_dir()}, and it is downloaded again"
        ) from error
    finally:
        os.environ.pop(_TENSORS_ONLY)
        if before is not None:
            os.environ[_TENSORS_ONLY] = before


def timm_model(name: str, weights: str | None = None, num_classes: int | None = None) -> nn.Module:
    """A network of ``timm``.

    Args:
        name: Such as ``"resnet50.a1_in1k"``; ``timm.list_models()`` has all.
        weights: ``"DEFAULT"`` for the pretrained ones of that name. ``None``: random ones.
        num_classes: Number of classes. ``None``: as many as the weights have, or 1000.

    Raises:
        ValueError: If ``weights`` is something else.
    """
    import timm

    if weights not in (None, "DEFAULT"):
        raise ValueError(f"weights={weights!r} must be DEFAULT or null: in timm the name chooses among weights")
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    with _tensors_only(name, weights):
        model: nn.Module = timm.create_model(name, pretrained=weights is not None, **options)
    return model
