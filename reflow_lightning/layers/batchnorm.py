"""The BatchNorm layers of a model."""

from __future__ import annotations

from torch import nn

from reflow_lightning.running.compat.torch import BatchNorm


def batchnorm_layers(model: nn.Module) -> dict[str, BatchNorm]:
    """BatchNorm layers that hold running statistics, by module name.

    Example:
        >>> list(batchnorm_layers(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.BatchNorm1d(2, eps=1e-3))))
        ['1', '2']
    """
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, BatchNorm) and module.running_mean is not None
    }
