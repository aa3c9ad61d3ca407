"""What a model puts out: its numbers, and where it names the parts, the logits and a loss that it computes itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from reflow_lightning.running.nested import tensors


def numbers_of(output: Any) -> list[Tensor]:
    """The tensors of an output whose values two networks can be compared by: dense ones of floating point.

    Example:
        >>> numbers_of({"x": torch.ones(1), "class": torch.tensor([3]), "few": torch.ones(2).to_sparse()})
        [tensor([1.])]
    """
    return [values for values in tensors(output) if values.ndim and values.is_floating_point() and _is_dense(values)]


def _is_dense(values: Tensor) -> bool:
    return values.layout is torch.strided and not values.is_nested and not values.is_meta


def logits_of(output: Any) -> Any:
    """The logits of an output that names them, as outputs of transformers do; any other output as it is.

    Example:
        >>> logits_of({"loss": "loss", "logits": "logits"}), logits_of("logits")
        ('logits', 'logits')
    """
    found = _named(output, "logits")
    return output if found is None else found


def loss_of(output: Any) -> Tensor | None:
    """The loss that a model has computed itself: by the name, or all that it puts out, as a ``training_step`` does.

    Example:
        >>> loss_of({"loss": torch.tensor(0.5)}), loss_of(torch.tensor(0.5)), loss_of(torch.ones(2, 3))
        (tensor(0.5000), tensor(0.5000), None)
    """
    found = output if isinstance(output, Tensor) else _named(output, "loss")
    return found if isinstance(found, Tensor) and not found.ndim else None


def _named(output: Any, name: str) -> Any:
    """A part of an output by its name: the value of a mapping, or an attribute; ``None`` if there is none."""
    return output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
