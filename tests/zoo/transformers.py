"""Attention, and linear layers over tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from reflow_lightning.experiments.models.vit import VisionTransformer
from zoo.registry import IMAGES, SEQUENCES, register


class Attention(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.inner, self.head = nn.MultiheadAttention(8, 2, batch_first=True, **options), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x, x, x, need_weights=False)[0].mean(1))


def transformer_layer() -> nn.Sequential:
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(20, 3))


class Mixer(nn.Module):
    """Linear layers over tokens and over channels, with positional parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 6)
        self.position = nn.Parameter(torch.randn(1, 5, 6))
        self.tokens = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 5))
        self.features = nn.Sequential(nn.Linear(6, 9), nn.GELU(), nn.Linear(9, 6))
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.position
        x = x + self.tokens(x.transpose(1, 2)).transpose(1, 2)
        return self.head((x + self.features(x)).mean(1))


def vision_transformer() -> nn.Module:
    return VisionTransformer(6, 3, num_classes=4, width=8, depth=1, heads=2)


def other_sizes() -> nn.Module:
    return Attention(kdim=8, vdim=8, bias=False)


register("attention", Attention, SEQUENCES, tags=("repair",))
register("attention_of_other_sizes", other_sizes, SEQUENCES, tags=("repair",))
register("transformer_layer", transformer_layer, (5, 4), tags=("classifier",))
register("transformer", vision_transformer, IMAGES, tags=("collapse",))
register("mixer", Mixer, (5, 3), tags=("collapse",))
