"""What a model puts out, where it names the parts: the logits, and a loss that it computes itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def logits_of(output: Any) -> Any:
    """The logits of an output that names them, as those of transformers do; any other output as it is.

    Example:
        >>> logits_of({"loss": "loss", "logits": "logits"}), logits_of("logits")
        ('logits', 'logits')
    """
    found = _named(output, "logits")
    return output if found is None else found


def loss_of(output: Any) -> Tensor | None:
    """The loss that a model has computed itself: by the name, or all that it puts out, as a ``training_step`` does.

    Example:
        >>> import torch
        >>> loss_of({"loss": torch.tensor(0.5)}), loss_of(torch.tensor(0.5)), loss_of(torch.ones(2, 3))
        (tensor(0.5000), tensor(0.5000), None)
    """
    found = output if isinstance(output, Tensor) else _named(output, "loss")
    return found if isinstance(found, Tensor) and not found.ndim else None


def _named(output: Any, name: str) -> Any:
    """A part of an output by its name: the value of a mapping, or an attribute; ``None`` if there is none."""
    return output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
