"""A small transformer encoder for sentences (arXiv 1706.03762), of torch's own layers."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from reflow_lightning.experiments.token_format import TokenFormat

Pooling = Literal["mean", "first"]


ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU}
"""As modules, so that `reflow_lightning.rounds.remove_rectifier` can replace them."""


class TextTransformer(nn.Module):
    """Embeddings with learned positions, encoder layers, and a linear classifier on one vector a sentence.

    Args:
        vocabulary_size: Number of token ids.
        num_classes: Number of classes.
        max_length: Tokens of the longest sentence.
        width: Length of a token's vector.
        depth: Number of encoder layers.
        heads: Number of attention heads; divides the width.
        expansion: Ratio of the units between the two linear layers of an encoder layer to the width.
        dropout: Share of the values that are dropped in training, after the embeddings and within the layers.
        norm_first: LayerNorm before attention and linear layers (pre-norm), or after each sum (post-norm).
        activation: ``"gelu"`` or ``"relu"``.
        pooling: The classifier reads the ``"mean"`` over the tokens, or the ``"first"`` one, which the tokenizers of
            this package put before each sentence for that.

    Raises:
        ValueError: If ``pooling`` or ``activation`` is unknown, or the heads do not divide the width.

    Example:
        >>> ids, mask = torch.tensor([[2, 5, 6], [2, 7, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
        >>> TextTransformer(vocabulary_size=10, num_classes=2)(input_ids=ids, attention_mask=mask).shape
        torch.Size([2, 2])
    """

    def __init__(
        self,
        vocabulary_size: int,
        num_classes: int,
        max_length: int = 64,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        expansion: int = 2,
        dropout: float = 0.1,
        norm_first: bool = True,
        activation: Literal["gelu", "relu"] = "gelu",
        pooling: Pooling = "mean",
    ) -> None:
        super().__init__()
        if pooling not in ("mean", "first"):
            raise ValueError(f"pooling={pooling!r} must be 'mean' or 'first'")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation={activation!r} must be 'gelu' or 'relu'")
        if width % heads:
            raise ValueError(f"heads={heads} must divide width={width}")
        self.pooling = pooling
        self.tokens = TokenFormat(vocabulary_size, max_length)
        self.embedding = nn.Embedding(vocabulary_size, width)
        self.positions = nn.Embedding(max_length, width)
        for embedding in (self.embedding, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                heads,
                expansion * width,
                dropout,
                ACTIVATIONS[activation](),
                batch_first=True,
                norm_first=norm_first,
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width) if norm_first else nn.Identity()
        self.head = nn.Linear(width, num_classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Map token ids (N, T) to logits (N, classes); where ``attention_mask`` (N, T) is 0, there is no token."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.dropout(self.embedding(input_ids) + self.positions(places))
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=mask == 0)
        pooled = x[:, 0] if self.pooling == "first" else masked_mean(x, mask)
        logits: Tensor = self.head(self.norm(pooled))  # the mean before the norm, so that some words count more
        return logits


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """The mean over the tokens that count.

    Args:
        x: Vectors (N, T, width).
        mask: 1 for a token that counts, else 0, shape (N, T).

    Example:
        >>> masked_mean(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[2.]])
    """
    weights = mask.to(x.dtype)[..., None]
    return (x * weights).sum(1) / weights.sum(1)
