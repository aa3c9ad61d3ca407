"""Networks of torchvision and timm, by name."""

from __future__ import annotations

from typing import Any

from torch import nn


def torchvision_model(name: str, weights: str | None = None, num_classes: int | None = None) -> nn.Module:
    """A network of ``torchvision.models``.

    Args:
        name: Such as ``"resnet50"``; ``torchvision.models.list_models()`` has all.
        weights: Name of an entry of its weights, such as ``"IMAGENET1K_V2"``, or ``"DEFAULT"`` for the best. ``None``:
            random ones.
        num_classes: Number of classes. ``None``: that of the weights, or 1000.

    Raises:
        ValueError: If the name is unknown, or the weights are for another number of classes.
    """
    from torchvision.models import get_model

    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    model: nn.Module = get_model(name, weights=weights, **options)
    return model


def timm_model(name: str, weights: str | None = None, num_classes: int | None = None) -> nn.Module:
    """A network of ``timm``.

    Args:
        name: Such as ``"resnet50.a1_in1k"``; ``timm.list_models()`` has all.
        weights: ``"DEFAULT"`` for the pretrained ones of that name. ``None``: random ones.
        num_classes: Number of classes. ``None``: that of the weights, or 1000.

    Raises:
        ValueError: If ``weights`` is something else.
    """
    import timm

    if weights not in (None, "DEFAULT"):
        raise ValueError(f"weights={weights!r} must be DEFAULT or null: in timm the name chooses among weights")
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    model: nn.Module = timm.create_model(name, pretrained=weights is not None, **options)
    return model
