"""Does a changed network still do the same? Compared on real and on random inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from reflow_lightning.depth.difference import relative_difference
from reflow_lightning.running.isolation import isolated_rng

Inputs = tuple[Any, ...]
"""The positional arguments of one call of a network."""


def random_like(inputs: Inputs, seed: int = 0) -> Inputs:
    """Normal noise of the mean and the standard deviation of each tensor; of whole numbers, the same ones shuffled.

    Example:
        >>> (noise,) = random_like((torch.full((100, 100), 5.0),))
        >>> noise.mean().round().item()
        5.0
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(values: Tensor) -> Tensor:
        if values.is_floating_point():
            spread = values.double().std(correction=0).item() or 1.0
            noise = torch.randn(values.shape, generator=generator, dtype=torch.float64)
            return (noise * spread + values.double().mean().item()).to(values)
        order = torch.randperm(values.numel(), generator=generator).to(values.device)
        return values.flatten()[order].view(values.shape)

    drawn: Inputs = tree_map_only(Tensor, draw, inputs)
    return drawn


class Expected:
    """The outputs of a network on some inputs, and how far those of another are from them.

    Args:
        model: The network, in eval mode.
        inputs: What it is called with.

    Example:
        >>> expected = Expected(torch.nn.Linear(2, 2), [(torch.ones(1, 2),)])
        >>> expected.deviation(expected.model)
        0.0
    """

    def __init__(self, model: Callable[..., Any], inputs: Sequence[Inputs]) -> None:
        self.model = model
        self.inputs = list(inputs)
        self.expected = [_run(model, given) for given in self.inputs]

    def deviation(self, other: Callable[..., Any]) -> float:
        """The largest `relative_difference` of an output.

        Raises:
            ValueError: If the outputs have other shapes.
        """
        pairs = zip(self.expected, self.inputs, strict=True)
        return max(relative_difference(expected, _run(other, given)) for expected, given in pairs)


@torch.no_grad()
def _run(model: Callable[..., Any], inputs: Inputs) -> Any:
    with isolated_rng():
        return model(*inputs)
