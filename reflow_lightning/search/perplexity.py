"""How well a causal language model tells the next token."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from reflow_lightning.running.as_forward import AnyForward, as_forward
from reflow_lightning.running.batches import device_of, move
from reflow_lightning.running.forward import batch_input
from reflow_lightning.running.isolation import isolated_rng, only_training
from reflow_lightning.running.labels import batch_targets
from reflow_lightning.running.outputs import logits_of
from reflow_lightning.running.processes import together, total

IGNORED = -100
"""The label of a token that does not count, as in `torch.nn.functional.cross_entropy`."""

_LARGEST = 700.0
"""The largest exponent of a float64, about."""


@torch.no_grad()
def perplexity(model: nn.Module, batches: Iterable[Any], *, forward: AnyForward | None = None) -> float:
    """The perplexity of a causal language model: ``exp`` of the mean cross entropy of the next tokens.

    The mean is over all tokens of all batches. Where processes run together, all must call this, each with its own
    batches or none, and the mean is over the batches of all. It is what `torchmetrics.text.Perplexity` gives, but
    loads no torchmetrics. The model runs in eval mode. For `reflow_lightning.find_sparsity`, where more is better,
    negate it.

    Args:
        model: Puts out logits (samples, positions, vocabulary), or names them so; the logits at a position predict the
            token at the next one.
        batches: Read once. A mapping's ``"labels"`` are the tokens, and labels of -100 do not count; without labels
            they are its ``"input_ids"``, except where ``"attention_mask"`` is 0. Of a tuple or list, the first element
            holds them.
        forward: ``(model, batch) -> output``; by default as in `reflow_lightning.calibrate`.

    Raises:
        ValueError: If the model is no causal one, its logits do not fit the tokens, or no token can be predicted.

    Example:
        >>> knows_nothing = nn.Sequential(nn.Embedding(50, 4), nn.Linear(4, 50))
        >>> _ = nn.init.zeros_(knows_nothing[1].weight), nn.init.zeros_(knows_nothing[1].bias)
        >>> round(perplexity(knows_nothing, [torch.randint(50, (8, 12))]), 3)
        50.0
    """
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise ValueError(f"{type(model).__name__} has an encoder, whose next tokens it sees: pass a causal model")
    run, device = as_forward(forward), device_of(model)
    sums = torch.zeros(2, dtype=torch.float64)  # of the cross entropies, and how many there are
    with only_training(model, ()), isolated_rng(), together("measuring the perplexity"):
        for batch in batches:
            moved = move(batch, device)
            tokens, logits = _tokens(moved), logits_of(run(model, moved))
            if not isinstance(logits, Tensor) or logits.ndim != 3 or logits.shape[:2] != tokens.shape:
                shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
                raise ValueError(
                    f"perplexity needs logits (samples, positions, vocabulary) for tokens of shape "
                    f"{tuple(tokens.shape)}, but {type(model).__name__} gave {shape}: pass a causal language model, or "
                    "forward=... that returns its logits"
                )
            wanted = tokens[:, 1:].flatten()
            lost = cross_entropy(logits[:, :-1].flatten(0, 1).float(), wanted, ignore_index=IGNORED, reduction="sum")
            sums += torch.tensor([float(lost), int((wanted != IGNORED).sum())], dtype=torch.float64)
    mean = float(torch.div(*total(sums)))
    if math.isnan(mean):
        raise ValueError(
            "the perplexity is NaN: the batches hold no next token, or the model puts out NaN for one; pass sequences "
            "of two tokens or more, and look at the weights"
        )
    return math.exp(mean) if mean < _LARGEST else math.inf


def _tokens(batch: Any) -> Tensor:
    """The tokens of a batch, (samples, positions), with `IGNORED` where they do not count."""
    given = batch_targets(batch) if isinstance(batch, Mapping) else None
    if isinstance(given, Tensor) and given.ndim == 2:
        return given
    tokens = batch_input(batch)
    if not isinstance(tokens, Tensor) or tokens.ndim != 2 or tokens.is_floating_point():
        shape = tuple(tokens.shape) if isinstance(tokens, Tensor) else type(tokens).__name__
        raise ValueError(
            f"perplexity found no tokens in a batch of type {type(batch).__name__}, but {shape}: pass mappings with "
            "'input_ids', or the ids of tokens (samples, positions)"
        )
    mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
    return tokens if mask is None else tokens.masked_fill(mask == 0, IGNORED)
