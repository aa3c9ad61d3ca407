"""What BatchNorm layers remember of a training: a running average, and what it may still hold of its beginning."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from reflow_lightning.running.compat.torch import BatchNorm

_BEGAN = 0.95  # the most that is taken to be left of the initial values without being told by the number of batches
_EXPLAINS = 0.4  # initial values explain a distance if less than this share is left without them


def settled(layer: BatchNorm) -> tuple[Tensor, Tensor]:
    """The stored means and variances without what they may still hold of their initial values, 0 and 1.

    A running average of momentum m over n batches holds a share (1 - m)^n of what it began with, and one that was
    itself averaged over a training, as the weights were, more than its number of batches tells. But no share is greater
    than the least of the variances.

    Returns:
        Two tensors (k, C), for k shares. The first is none; the last is what the number of batches tells.

    Example:
        >>> layer = torch.nn.BatchNorm1d(1, momentum=0.5)
        >>> _ = layer(torch.tensor([[2.0], [6.0]]))
        >>> [values[-1].item() for values in settled(layer)]
        [4.0, 8.0]
    """
    mean, variance = (layer.get_buffer(f"running_{what}").double().cpu() for what in ("mean", "var"))
    least = variance.min().clamp(0, 1).item()
    shares = 1 - (1 - min(least * 0.999, _BEGAN)) ** torch.linspace(0, 1, 101, dtype=torch.float64)[:, None]
    seen = int(layer.num_batches_tracked or 0)
    told = (1 - layer.momentum) ** seen if layer.momentum and seen else 0.0
    shares = torch.cat([shares, shares.new_full((1, 1), told if told < least + 1e-6 else 0.0)])
    return mean / (1 - shares), ((variance - shares) / (1 - shares)).clamp(min=0)


def nearest(squares: Tensor) -> int:
    """Which of the `settled` statistics are meant, by squared distances: what the batches tell must explain most."""
    told = 0 if squares[0] <= squares[-1] else len(squares) - 1
    free = int(squares.argmin())
    return free if squares[free] < _EXPLAINS**2 * squares[told] else told


def remembered(layer: BatchNorm) -> float:
    """Of how many batches a mean would be as noisy as the running average."""
    seen = math.inf if layer.num_batches_tracked is None else int(layer.num_batches_tracked) or math.inf
    return min(seen, (2 - layer.momentum) / layer.momentum) if layer.momentum else seen
