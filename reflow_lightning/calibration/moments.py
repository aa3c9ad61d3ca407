"""The repair by moments: every channel with the mean and the standard deviation that it has in the dense network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

from torch import nn

from reflow_lightning.calibration.changing import changing, check_reference
from reflow_lightning.calibration.matching import Target, match_moments
from reflow_lightning.calibration.repair import Calibration
from reflow_lightning.calibration.repairable import layers_to_repair
from reflow_lightning.layers.layer import Layer
from reflow_lightning.layers.order import forward_order
from reflow_lightning.running.as_forward import AnyForward, as_forward
from reflow_lightning.running.batches import Batches, device_of
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.isolation import isolated_rng, only_training
from reflow_lightning.running.units import runnable

DONE = "moments"


@dataclass(frozen=True)
class Moments:
    """Match the mean and standard deviation of each channel at every layer to the dense network's.

    The correction is folded into the weight and bias of norms, the rows of weight and bias of linear and convolution
    layers and attention projections, and the gates of recurrent cells: no module is added, zeros stay zero. It is the
    folded form of the statistics correction of OBC (arXiv 2208.11580) and of REPAIR (arXiv 2211.08403), in forward
    order.

    Args:
        targets: Mean and standard deviation that layers shall put out, by layer name. Layers with a target need no
            dense network; see `batchnorm_targets`.

    Example:
        >>> import copy, torch
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> dense, batch = copy.deepcopy(model), torch.randn(64, 4)
        >>> _ = model[0].weight.detach().mul_(0.1)
        >>> Moments()(model, [batch], lambda network, x: network(x), dense).repaired
        ('0', '2')
        >>> torch.allclose(model(batch), dense(batch), atol=1e-4)
        True
    """

    writes_weights: ClassVar[bool] = True
    restores_itself: ClassVar[bool] = True
    leaves_undo_to_caller: ClassVar[bool] = True
    unit_by_unit: ClassVar[bool] = True
    targets: Mapping[str, Target] = field(default_factory=dict)

    def needs_reference(self, model: nn.Module) -> bool:
        """Whether the dense network is needed: it gives the moments, unless there are targets."""
        return not self.targets

    def __call__(
        self, model: nn.Module, batches: Iterable[Any], forward: Forward, reference: nn.Module | None, /
    ) -> Calibration:
        """Repair the model."""
        layers, skipped = layers_to_repair(model)
        if self.targets and reference is None:
            skipped |= {name: "it has no target" for name in layers if name not in self.targets}
            layers = {name: layer for name, layer in layers.items() if name in self.targets}
        else:
            check_reference(model, layers, reference, DONE)
        return repair_layers(model, layers, skipped, batches, forward, reference, self.targets)


def repair_layers(
    model: nn.Module,
    layers: Mapping[str, Layer],
    skipped: Mapping[str, str],
    batches: Iterable[Any],
    forward: Forward,
    reference: nn.Module | None,
    targets: Mapping[str, Target] = MappingProxyType({}),
) -> Calibration:
    """`match_moments` as a repair, that leaves the model unchanged if it raises."""
    with changing(model, layers, reference, DONE) as change:
        change.repaired = match_moments(model, layers, batches, forward, reference, targets)
        return change.calibration(batches, layers, skipped)


def batchnorm_targets(
    model: nn.Module, batches: Iterable[Any], *, forward: AnyForward | None = None
) -> dict[str, Target]:
    """What convolution and linear layers shall put out once the BatchNorm layer after them is folded into them.

    That layer gives mean ``beta`` and standard deviation ``|gamma|``, so that no dense network is needed
    (arXiv 2102.08124).

    Args:
        model: The network before folding.
        batches: Any iterable of batches. The first is read: what follows what is learned from the calls.
        forward: See `reflow_lightning.calibrate`.

    Returns:
        Targets by the name of the layer whose output a BatchNorm layer gets as it is.

    Raises:
        ValueError: If there is no batch.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        >>> list(batchnorm_targets(model, [torch.randn(2, 3, 8, 8)]))
        ['0']
    """
    modules = dict(model.named_modules())
    moved = Batches(batches, 1, device_of(model), task="finding the targets")
    with isolated_rng(), runnable(model) as network, only_training(network, ()):
        followers = forward_order(network, moved, moved.alike(as_forward(forward))).followers
    moved.check()
    return {
        name: Target(modules[norm].bias.detach().double(), modules[norm].weight.detach().double().abs())
        for name, norm in followers.items()
        if modules[norm].weight is not None
    }
