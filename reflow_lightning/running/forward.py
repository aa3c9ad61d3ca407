"""How a model is run on a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

Forward = Callable[[nn.Module, Any], Any]
"""``(model, batch) -> anything``: runs the model on a batch."""

_INPUT_KEYS = ("x", "image", "input", "pixel_values")


def batch_input(batch: Any) -> Any:
    """What the default forward passes to the model.

    The first element of a tuple or list, ``batch["x" | "image" | "input" | "pixel_values"]`` of a dict, else the batch.

    Example:
        >>> batch_input(("images", "labels")), batch_input({"image": "images"})
        ('images', 'images')
    """
    if isinstance(batch, (tuple, list)) and batch:
        return batch[0]
    if isinstance(batch, Mapping):
        return next((batch[key] for key in _INPUT_KEYS if key in batch), batch)
    return batch


def default_forward(model: nn.Module, batch: Any) -> Any:
    """Run the model on `batch_input` of a batch.

    Raises:
        TypeError: If the input is no tensor and the model fails on it.
    """
    inputs = batch_input(batch)
    try:
        return model(inputs)
    except Exception as error:
        if isinstance(inputs, Tensor) and not isinstance(error, NotImplementedError):
            if hasattr(error, "add_note"):  # Python 3.11
                error.add_note("This was the default forward, model(inputs); pass forward=... to run it otherwise")
            raise
        keys = f" with keys {sorted(map(str, batch))}" if isinstance(batch, Mapping) else ""
        raise TypeError(
            f"the default forward called {type(model).__name__} with a {type(inputs).__name__} from a batch of type "
            f"{type(batch).__name__}{keys}, and it failed ({type(error).__name__}: {error}): "
            "pass forward=lambda model, batch: ... that runs the model on such a batch"
        ) from error
