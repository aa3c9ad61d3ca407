"""Keep pruned weights at zero through a training. Plain PyTorch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.utils.hooks import RemovableHandle

from reflow_lightning.pruning.belonging import held_here, parameters_of
from reflow_lightning.pruning.bits import zero_where_pruned
from reflow_lightning.pruning.shards import local


class ZeroKeeper:
    """Sets pruned weights back to zero after every step of the optimizers that it watches.

    The weights are masked, not only their gradients: momentum and weight decay move a weight without any gradient.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> optimizer = optim.SGD(model.parameters(), lr=0.1)
        >>> keeper = ZeroKeeper()
        >>> keeper.bind(model, {"weight": torch.tensor([[True, False]])})
        >>> keeper.watch([optimizer])
        >>> model(torch.ones(1, 2)).sum().backward()
        >>> _ = optimizer.step()
        >>> model.weight[0, 1].item() == 0
        True
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        self._parameters: list[nn.Parameter] = []
        self._masks: list[Tensor] = []  # as far as this process holds the parameters
        self._handles: list[RemovableHandle] = []

    def bind(self, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        """Keep the zeros of these masks, instead of any before.

        Args:
            model: The model.
            masks: Bool tensors by parameter name, True where a weight stays.

        Raises:
            ValueError: If they do not fit the model. What was bound before still is.
        """
        parameters, held = parameters_of(model, masks), held_here(model, masks)
        self._names, self._parameters, self._masks = list(masks), parameters, [mask for _, mask in held]

    def is_bound(self, model: nn.Module, masks: Mapping[str, Tensor]) -> bool:
        """Whether the model still has the parameters that were bound, as they were, and no others by their names.

        One that has moved to another device, or has data of another shape, is not as it was. It takes a few
        microseconds a parameter, so that it can be asked at every step.
        """
        return list(masks) == self._names and all(
            _find(model, name) is parameter and parameter.shape == mask.shape and parameter.device == held.device
            for (name, mask), parameter, held in zip(masks.items(), self._parameters, self._masks, strict=True)
        )

    def watch(self, optimizers: Iterable[optim.Optimizer]) -> None:
        """Act after every step of these optimizers, instead of any before; a skipped step changes nothing."""
        self._stop_watching()
        for optimizer in optimizers:
            self._handles.append(optimizer.register_step_post_hook(self._after_step))

    def release(self) -> None:
        """Watch nothing and hold nothing of the model."""
        self._stop_watching()
        self._names, self._parameters, self._masks = [], [], []

    def set_zeros(self) -> None:
        """Set the pruned weights to zero now."""
        zero_where_pruned([local(parameter.detach()) for parameter in self._parameters], self._masks)

    def mask_gradients(self) -> None:
        """Set the gradients of pruned weights to zero, so that clipping and momentum see only what is alive."""
        pairs = zip(self._parameters, self._masks, strict=True)
        found = [(local(p.grad), mask) for p, mask in pairs if p.grad is not None]
        for gradient, mask in found:
            if gradient.layout != torch.strided:  # of an embedding with sparse=True
                gradient.mul_(mask)
        found = [(gradient, mask) for gradient, mask in found if gradient.layout == torch.strided]
        zero_where_pruned([gradient for gradient, _ in found], [mask for _, mask in found])

    def forget_moments(self, optimizer: optim.Optimizer) -> None:
        """Set momentum and moments of pruned weights to zero in an optimizer's state."""
        for parameter, mask in zip(self._parameters, self._masks, strict=True):
            for value in optimizer.state.get(parameter, {}).values():
                if isinstance(value, Tensor) and value.shape == parameter.shape and value.is_floating_point():
                    here = local(value)
                    zero_where_pruned([here], [mask.to(here.device)])

    def _after_step(self, *_: Any) -> None:
        self.set_zeros()

    def _stop_watching(self) -> None:
        while self._handles:
            self._handles.pop().remove()


def _find(model: nn.Module, name: str) -> nn.Parameter | None:
    """The parameter of a name, without a walk through the whole model."""
    try:
        return model.get_parameter(name)
    except AttributeError:
        return None
