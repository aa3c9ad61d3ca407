"""The layer of torch's transformer encoder, by its formula: its own forward pass chooses between kernels."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def is_encoder_layer(module: nn.Module) -> bool:
    """Whether a module is a layer of torch's transformer encoder, of that class itself.

    Example:
        >>> is_encoder_layer(nn.TransformerEncoderLayer(8, 2)), is_encoder_layer(nn.Linear(2, 2))
        (True, False)
    """
    return type(module) is nn.TransformerEncoderLayer


def encode(
    layer: Any,
    src: Tensor,
    src_mask: Tensor | None = None,
    src_key_padding_mask: Tensor | None = None,
    is_causal: bool = False,
) -> Tensor:
    """Compute the output of a layer in eval mode, in steps that a graph can hold.

    The arguments are the same as in ``torch.nn.TransformerEncoderLayer.forward``.

    Example:
        >>> import torch
        >>> layer, values = nn.TransformerEncoderLayer(8, 2, batch_first=True).eval(), torch.randn(3, 5, 8)
        >>> torch.allclose(encode(layer, values), layer(values), atol=1e-6)
        True
    """

    def attended(x: Tensor) -> Tensor:
        masks = {"attn_mask": src_mask, "key_padding_mask": src_key_padding_mask, "is_causal": is_causal}
        out: Tensor = layer.self_attn(x, x, x, need_weights=False, **masks)[0]
        return out

    def fed_forward(x: Tensor) -> Tensor:
        out: Tensor = layer.linear2(layer.activation(layer.linear1(x)))
        return out

    if layer.norm_first:
        x = src + attended(layer.norm1(src))
        return x + fed_forward(layer.norm2(x))
    x = layer.norm1(src + attended(src))
    out: Tensor = layer.norm2(x + fed_forward(x))
    return out
