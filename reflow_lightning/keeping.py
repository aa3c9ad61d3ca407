"""Keep pruned weights at zero through a training. Plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.utils.hooks import RemovableHandle

from reflow_lightning.pruning import Masks


class ZeroKeeper:
    """Sets pruned weights back to zero after every step of the optimizers that it watches.

    The weights are masked, not only their gradients: momentum and weight decay move a weight without any gradient.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> optimizer = optim.SGD(model.parameters(), lr=0.1)
        >>> keeper = ZeroKeeper()
        >>> keeper.bind(model, Masks({"weight": torch.tensor([[True, False]])}))
        >>> keeper.watch([optimizer])
        >>> model(torch.ones(1, 2)).sum().backward()
        >>> _ = optimizer.step()
        >>> model.weight[0, 1].item() == 0
        True
    """

    def __init__(self) -> None:
        self._parameters: list[nn.Parameter] = []
        self._masks: list[Tensor] = []
        self._apply: Callable[[], None] | None = None
        self._handles: list[RemovableHandle] = []

    def bind(self, model: nn.Module, masks: Masks) -> None:
        """Keep the zeros of these masks, instead of any before."""
        self._parameters = masks.parameters(model)
        self._masks = [mask.to(p.device) for p, mask in zip(self._parameters, masks.values(), strict=True)]
        self._apply = masks.bind(model)

    def watch(self, optimizers: Iterable[optim.Optimizer]) -> None:
        """Act after every step of these optimizers, instead of any before; a skipped step changes nothing."""
        self._stop_watching()
        for optimizer in optimizers:
            self._handles.append(optimizer.register_step_post_hook(self._after_step))

    def release(self) -> None:
        """Watch nothing and hold nothing of the model."""
        self._stop_watching()
        self._parameters, self._masks, self._apply = [], [], None

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Set the gradients of pruned weights to zero, so that clipping and momentum see only what is alive."""
        for parameter, mask in zip(self._parameters, self._masks, strict=True):
            if parameter.grad is not None:
                parameter.grad.mul_(mask)

    @torch.no_grad()
    def forget_moments(self, optimizer: optim.Optimizer) -> None:
        """Set momentum and moments of pruned weights to zero in an optimizer's state."""
        for parameter, mask in zip(self._parameters, self._masks, strict=True):
            for value in optimizer.state.get(parameter, {}).values():
                if isinstance(value, Tensor) and value.shape == mask.shape:
                    value.mul_(mask.to(value.device))

    def _after_step(self, *_: Any) -> None:
        if self._apply is not None:
            self._apply()

    def _stop_watching(self) -> None:
        while self._handles:
            self._handles.pop().remove()
