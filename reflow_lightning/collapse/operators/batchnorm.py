"""BatchNorm in eval mode: a factor and a shift for each channel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from reflow_lightning.collapse.edits import parameter_like
from reflow_lightning.collapse.facts.following import Following
from reflow_lightning.collapse.facts.intervals import Bounds, times
from reflow_lightning.collapse.facts.operator import Operator
from reflow_lightning.collapse.facts.removal import Shrinking
from reflow_lightning.collapse.facts.step import Step


def affine_of_batchnorm(module: Any) -> tuple[Tensor, Tensor]:
    """The factor and the shift that a BatchNorm layer in eval mode applies to each channel, in float64."""
    variance, mean = module.running_var.double().cpu(), module.running_mean.double().cpu()
    factor = (variance + module.eps).rsqrt()
    if module.weight is not None:
        factor = factor * module.weight.double().cpu()
    bias = 0.0 if module.bias is None else module.bias.double().cpu()
    return factor, bias - mean * factor


class BatchNorm(Operator):
    """A BatchNorm layer with statistics of its own."""

    modules: Mapping[str, str] = dict.fromkeys(
        ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm"], "batchnorm"
    )

    def fits(self, module: Any) -> bool:
        """See `Kind`."""
        return module.running_var is not None

    def channel_dim(self, ndim: int) -> int:
        """See `Operator`."""
        return 1

    def bounds(self, step: Step) -> Any:
        """See `Operator`."""
        given: Bounds = step.first
        factor, shift = (values.view(-1, *[1] * (given.low.ndim - 2)) for values in affine_of_batchnorm(step.module))
        product = times(given, Bounds(factor, factor))
        return Bounds(product.low + shift, product.high + shift)

    def channels(self, step: Step, follow: Following) -> Any:
        """See `Operator`."""
        return follow.channelwise(step)

    def shrink(self, node: fx.Node, shrinking: Shrinking) -> None:
        """See `Operator`."""
        module, stays = shrinking.steps.module(node), shrinking.stays(node)
        if stays is None:
            return
        for name in ("weight", "bias"):
            if (value := getattr(module, name)) is not None:
                setattr(module, name, parameter_like(value[stays.to(value.device)], value))
        for name in ("running_mean", "running_var"):
            value = getattr(module, name)
            setattr(module, name, value[stays.to(value.device)])
        module.num_features = int(stays.sum())

    def rescale(self, module: Any, slope: Tensor, offset: Tensor) -> bool:
        """See `Operator`."""
        factor, shift = affine_of_batchnorm(module)
        like: Tensor = module.running_mean
        module.running_mean, module.running_var = torch.zeros_like(like), torch.ones_like(like) - module.eps
        module.weight = parameter_like(factor * slope, like)
        module.bias = parameter_like(shift * slope + offset, like)
        module.affine = True
        return True
