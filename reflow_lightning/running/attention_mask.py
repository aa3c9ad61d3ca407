"""Which positions of the sequences in a batch hold data, as the batch or the user says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from reflow_lightning.running.as_forward import AnyForward, as_forward
from reflow_lightning.running.forward import Forward, named_part
from reflow_lightning.running.processes import warn

_KEY = "attention_mask"
LEAST = -1e4
"""What a mask adds to the scores of attention where nothing shall be seen is at most this."""


class WithAttentionMask:
    """A forward pass, and how to read from a batch which positions hold data: the others do not count in statistics.

    It is for batches whose padding nothing else tells. An ``attention_mask`` in a mapping, ``padding_idx`` of an
    embedding, ``key_padding_mask`` of attention and packed sequences are understood without it. Give it wherever a
    ``forward`` is taken.

    Args:
        mask: Reads from a batch the mask, (samples, positions), true or 1 where there is data; or the place in the
            batch, as a text such as ``"batch[1]"`` or ``"batch['mask']"``.
        forward: Runs the model on a batch; see `as_forward`.

    Example:
        >>> import torch
        >>> from reflow_lightning import WithAttentionMask, measure_signal
        >>> model, words = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2)), torch.tensor([[5, 3], [7, 2]])
        >>> padded = nn.functional.pad(words, (0, 6))
        >>> bare = measure_signal(model, [words])
        >>> told = measure_signal(model, [padded], forward=WithAttentionMask(lambda ids: ids != 0))
        >>> torch.allclose(torch.tensor(bare.rows[0].variance), torch.tensor(told.rows[0].variance))
        True
    """

    def __init__(self, mask: Callable[[Any], Tensor] | str, forward: AnyForward | None = None) -> None:
        if not isinstance(mask, str) and not callable(mask):
            raise ValueError(f"mask={mask!r} must be a function of a batch, or a text such as 'batch[1]'")
        part = as_forward(mask) if isinstance(mask, str) else None
        self._mask: Callable[[Any], Any] = mask if part is None else lambda batch: part(nn.Identity(), batch)  # type: ignore[assignment]
        self._forward = as_forward(forward)

    def __call__(self, model: nn.Module, batch: Any) -> Any:
        """Run the model."""
        return self._forward(model, batch)

    def attention_mask(self, batch: Any) -> Tensor:
        """What the user says of a batch.

        Raises:
            ValueError: If it is no mask of (samples, positions).
        """
        mask = self._mask(batch)
        if not isinstance(mask, Tensor) or mask.ndim != 2:
            given = f"of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else f"a {type(mask).__name__}"
            raise ValueError(
                f"the attention mask that WithAttentionMask read from a batch is {given}: it must be a tensor "
                "(samples, positions), true or 1 where there is data"
            )
        return _is_data(mask)


class Around:
    """A forward pass that runs another one in its own way, and knows of padding what the other knows."""

    def __init__(self, forward: Forward, call: Forward) -> None:
        self._forward, self._call = forward, call

    def __call__(self, model: nn.Module, batch: Any) -> Any:
        """Run the model."""
        return self._call(model, batch)

    def attention_mask(self, batch: Any) -> Tensor | None:
        """See `attention_mask`."""
        return attention_mask(self._forward, batch)


def attention_mask(forward: Forward, batch: Any) -> Tensor | None:
    """Which positions of a batch hold data, (samples, positions) of truth values; ``None`` if nobody says.

    The forward pass says so if it is a `WithAttentionMask`; else the ``attention_mask`` of a mapping, or of a mapping
    that comes first in a tuple.

    Args:
        forward: Runs a model on the batch.
        batch: The batch.

    Raises:
        ValueError: If the mask does not fit the batch.

    Example:
        >>> import torch
        >>> batch = {"input_ids": torch.ones(1, 2), "attention_mask": torch.tensor([[1, 0]])}
        >>> attention_mask(nn.Module.__call__, batch)
        tensor([[ True, False]])
    """
    told = getattr(forward, _KEY, None)
    found: Tensor | None = told(batch) if callable(told) else _in_mapping(named_part(batch))
    if found is not None and not bool(found.any(1).all()):
        warn(
            f"{int((~found.any(1)).sum())} of {len(found)} sequences in a batch are padding and nothing else, by their "
            "attention mask: leave them out, attention over no position may give NaN"
        )
    return found


def _in_mapping(batch: Mapping[str, Any]) -> Tensor | None:
    mask, ids = batch.get(_KEY), batch.get("input_ids")
    if not isinstance(mask, Tensor):
        return None
    if mask.ndim != 2:
        warn(
            f"attention_mask of shape {tuple(mask.shape)} does not say which positions are padding, so that padding "
            "counts in statistics: pass forward=WithAttentionMask(...) with a mask of (samples, positions)"
        )
        return None
    if isinstance(ids, Tensor) and ids.ndim == 2 and ids.shape != mask.shape:
        raise ValueError(
            f"attention_mask has shape {tuple(mask.shape)}, but input_ids has {tuple(ids.shape)}: both must be "
            "(samples, positions)"
        )
    return _is_data(mask)


def _is_data(mask: Tensor) -> Tensor:
    """A mask of truth values, from one of ones, or from what is added to the scores of attention."""
    if mask.is_floating_point() and bool((mask <= 0).all()):
        return mask > LEAST
    return mask.bool()
