"""The moments of what a BatchNorm layer in train mode has just normalised, from the statistics that it took itself."""

from __future__ import annotations

import torch
from torch import Tensor

from reflow_lightning.running.compat.torch import BatchNorm, takes_exact_statistics
from reflow_lightning.signal.statistics import moments

_NOT_WRITTEN = -1.0
"""No variance is negative: a layer that leaves this in place has kept no statistics of the batch."""

_FAR = 4.0
"""So many standard deviations from 0 a mean in float32 still tells how the means of batches differ.

It is rounded by 2^-24 of itself at most. The variance of the means is then off by 2^-23 times the mean times their
standard deviation, and so the variance of all by less than half a millionth.
"""


def keep_the_batch_alone(layer: BatchNorm) -> None:
    """Have a layer that is about to be called normalise by the batch, and keep the statistics of this call alone.

    Its old statistics stay until then, since a model may read them without a call, as blocks do that fold BatchNorm.

    Example:
        >>> layer, values = torch.nn.BatchNorm1d(2), torch.randn(8, 2, 5)
        >>> keep_the_batch_alone(layer)
        >>> _ = layer(values)
        >>> torch.allclose(batch_moments(layer, values), moments(values), rtol=1e-6, atol=1e-6)
        True
    """
    layer.training, layer.momentum = True, 1.0
    layer.get_buffer("running_var").fill_(_NOT_WRITTEN)


def batch_moments(layer: BatchNorm, values: Tensor) -> Tensor:
    """The `moments` of what a layer was called with last, in float64, without a second pass over it where possible.

    Channels whose mean is far from 0 are read again, and all of them where the layer's own sums are too coarse
    (`takes_exact_statistics`) or were not kept.

    Args:
        layer: A layer that was made to `keep_the_batch_alone` before that call.
        values: What it was called with.

    Returns:
        Tensor of shape (3, C).
    """
    mean, variance = layer.running_mean, layer.running_var
    assert mean is not None
    assert variance is not None
    if mean.dtype != values.dtype or len(mean) != values.shape[1] or not takes_exact_statistics(values):
        return moments(values)
    kept = torch.stack([mean, variance]).double()
    sure = kept[0].square() <= _FAR**2 * kept[1]  # not of NaN
    count = values.numel() // len(mean)
    part = torch.cat([torch.full_like(kept[:1], count), kept])
    part[2] *= count - 1
    if not bool(sure.all()):
        part[:, ~sure] = moments(values[:, ~sure])
    return part
