"""Random small networks of every kind of layer, for tests that look for the odd one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

CHANNELS, LENGTH = 8, 6


def data(n: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(n, CHANNELS, LENGTH, generator=torch.Generator().manual_seed(seed)).to(dtype)


class Images(nn.Module):
    """A convolution in channels_last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1).to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.unflatten(2, (2, -1)).contiguous(memory_format=torch.channels_last)).flatten(2)


class Attention(nn.Module):
    def __init__(self, **options: int) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(CHANNELS, 2, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        x = x.mT
        return self.inner(x, x[..., : self.inner.kdim], x, need_weights=False)[0].mT


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cells = kind(CHANNELS, CHANNELS, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.cells(x.mT)[0].mT


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(LENGTH, LENGTH), nn.Linear(LENGTH, LENGTH)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


class TiedToEmbedding(nn.Module):
    """Its decoder must stay dense."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CHANNELS, LENGTH)
        self.decoder = nn.Linear(LENGTH, CHANNELS, bias=False)
        self.decoder.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(x).mean(-1, keepdim=True) + self.embedding.weight


class Empty(nn.Module):
    """A weight of no element."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, LENGTH)
        self.linear.weight = nn.Parameter(torch.empty(LENGTH, 0))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x[..., :0])


class Single(nn.Module):
    """A weight of one element."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.mean(1, keepdim=True)).expand_as(x)


def strided() -> nn.Linear:
    """Every second column of a larger tensor."""
    linear = nn.Linear(LENGTH, LENGTH)
    linear.weight = nn.Parameter(torch.randn(LENGTH, 2 * LENGTH)[:, ::2])
    return linear


KINDS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "conv": (lambda: nn.Conv1d(CHANNELS, CHANNELS, 3, padding=1), 192),
    "grouped": (lambda: nn.Conv1d(CHANNELS, CHANNELS, 3, padding=1, groups=4), 48),
    "depthwise": (lambda: nn.Conv1d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS), 24),
    "transposed": (lambda: nn.ConvTranspose1d(CHANNELS, CHANNELS, 3, padding=1), 192),
    "images": (Images, 576),
    "linear": (lambda: nn.Linear(LENGTH, LENGTH), 36),
    "strided": (strided, 36),
    "frozen": (lambda: nn.Linear(LENGTH, LENGTH).requires_grad_(False), 36),
    "tied": (Tied, 36),
    "tied_to_embedding": (TiedToEmbedding, 0),
    "attention": (Attention, 256),
    "separate_projections": (lambda: Attention(kdim=4), 224),
    "gru": (lambda: Recurrent(nn.GRU), 384),
    "lstm": (lambda: Recurrent(nn.LSTM), 512),
    "batchnorm": (lambda: nn.BatchNorm1d(CHANNELS), 0),
    "layernorm": (lambda: nn.LayerNorm(LENGTH), 0),
    "empty": (Empty, 0),
    "single": (Single, 1),
}
"""How a layer is made, and how many weights it has that may be pruned."""


class Network(nn.Module):
    """Layers one after the other, with shortcuts; a BatchNorm layer comes last."""

    def __init__(self, kinds: Sequence[str], reverse: bool = False) -> None:
        super().__init__()
        made = [(f"{i}_{kind}", KINDS[kind][0]()) for i, kind in enumerate((*kinds, "batchnorm"))]
        self.layers = nn.ModuleDict(reversed(made) if reverse else made)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers.values():
            x = layer(x) if isinstance(layer, nn.BatchNorm1d) else torch.tanh(x + layer(x))
        return x


def prunable(kinds: Sequence[str]) -> int:
    return sum(KINDS[kind][1] for kind in kinds)
