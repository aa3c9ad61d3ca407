"""The parameters of a pruned network that gradient descent may move, and those steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn, optim

from reflow_lightning.layers.layer import Layer
from reflow_lightning.running.compat.hooks import step_unheard
from reflow_lightning.running.processes import total
from reflow_lightning.running.world import world_size


def survivors(layers: Iterable[Layer]) -> list[tuple[nn.Parameter, Tensor | None]]:
    """The parameters of some layers, and where each is not zero; ``None`` for a bias, which may move everywhere.

    Example:
        >>> from reflow_lightning.layers.find import find_layers
        >>> layer = nn.Linear(2, 1)
        >>> _ = layer.weight.detach()[0, 1].fill_(0)
        >>> [None if kept is None else kept.tolist() for _, kept in survivors(find_layers(layer).known.values())]
        [[[True, False]], None]
    """
    found: dict[int, tuple[nn.Parameter, Tensor | None]] = {}
    for layer in layers:
        weights = {w.untyped_storage().data_ptr() for affine in layer.maps for w in affine.weights}
        for parameter in layer.module.parameters():
            is_weight = parameter.untyped_storage().data_ptr() in weights
            found[id(parameter)] = (parameter, parameter.detach() != 0 if is_weight else None)
    return list(found.values())


_LEAST_SIZE = 1e-3


class Descent:
    """Adam under a cosine, that leaves zeros as they are: their gradients, and so their moments, are zero.

    Each tensor is stepped in proportion to the root mean square of what is left of it, as in Adafactor
    (arXiv 1804.04235): networks differ in the size of their weights by orders of magnitude.

    Parameters of half precision are stepped in float32. Where processes run together, each gives the gradients of a
    batch of its own, or none, and all step by their mean, to equal bits.

    Args:
        parameters: See `survivors`. They are set to be differentiated.
        lr: Learning rate of the first step, relative to the size of a tensor.
        steps: Number of steps, over which the rate falls to zero.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> descent = Descent([(layer.weight, torch.tensor([[True, False]]))], lr=0.1, steps=5)
        >>> before = layer.weight.detach().clone()
        >>> descent.step(layer(torch.ones(1, 2)).square().sum())
        True
        >>> (layer.weight != before).tolist()
        [[True, False]]
    """

    def __init__(self, parameters: Sequence[tuple[nn.Parameter, Tensor | None]], lr: float, steps: int) -> None:
        self.lr = lr
        self._parameters = [parameter.requires_grad_() for parameter, _ in parameters]
        self._kept = [kept for _, kept in parameters]
        whole = (torch.float32, torch.float64)
        self._stepped = [p.detach() if p.dtype in whole else p.detach().float() for p in self._parameters]
        self._sizes = [_size(s, kept) for s, kept in zip(self._stepped, self._kept, strict=True)]
        self._adam = optim.Adam([{"params": [stepped]} for stepped in self._stepped], lr=lr)
        self._steps, self._done = steps, 0

    @property
    def values(self) -> list[Tensor]:
        """What the parameters hold now, as views."""
        return [parameter.detach() for parameter in self._parameters]

    def step(self, loss: Tensor | None) -> bool:
        """Step down the gradient of a loss, averaged over all processes.

        Args:
            loss: Of this process's batch; ``None`` if it has none.

        Raises:
            ValueError: If the loss can't be differentiated.

        Returns:
            Whether a step was taken. None is where no process had a batch, or a gradient is not finite.
        """
        found: Sequence[Tensor | None] = [None] * len(self._parameters)
        if loss is not None:
            try:
                found = torch.autograd.grad(loss, self._parameters, allow_unused=True)
            except RuntimeError as error:
                raise ValueError(
                    f"alignment can't take gradients through the forward pass ({error}): pass a forward that runs the "
                    "model without no_grad, changes of weights or reentrant checkpoints, or use repair='reconstruct'"
                ) from error
        gradients = [
            torch.zeros_like(stepped) if gradient is None else gradient.to(stepped) * (1 if kept is None else kept)
            for stepped, gradient, kept in zip(self._stepped, found, self._kept, strict=True)
        ]
        mean = _mean(gradients, loss is not None)
        if mean is None or not bool(torch.stack([gradient.isfinite().all() for gradient in mean]).all()):
            return False
        for stepped, gradient in zip(self._stepped, mean, strict=True):
            stepped.grad = gradient
        rate = self.lr * (1 + math.cos(math.pi * self._done / self._steps)) / 2
        for group, size in zip(self._adam.param_groups, self._sizes, strict=True):
            group["lr"] = rate * size
        step_unheard(self._adam)
        self._done += 1
        with torch.no_grad():
            for parameter, stepped in zip(self._parameters, self._stepped, strict=True):
                if parameter.dtype != stepped.dtype:
                    parameter.copy_(stepped)
        return True


def _size(values: Tensor, kept: Tensor | None) -> float:
    """The root mean square of what is left, at least a thousandth, so that biases of zero may move."""
    left = values if kept is None else values[kept]
    return max(_LEAST_SIZE, float(left.square().mean().sqrt())) if left.numel() else _LEAST_SIZE


def _mean(gradients: list[Tensor], counts: bool) -> list[Tensor] | None:
    """The mean over the processes whose gradients count; ``None`` if there is none."""
    if world_size() == 1:
        return gradients if counts else None
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), gradients[0].new_tensor([float(counts)])])
    sizes = [*(gradient.numel() for gradient in gradients), 1]
    *parts, count = torch.split(total(flat), sizes)
    return [(p / count).view_as(g).to(g) for p, g in zip(parts, gradients, strict=True)] if bool(count) else None
