"""Does a changed network still do the same? Compared on real and on random inputs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, fx, nn

from reflow_lightning.collapse.graph.running import StepFailedError, attempted, undisturbed
from reflow_lightning.running.arguments import A, Arguments, batch_size, called
from reflow_lightning.running.compat.torch import tree_map_only, tree_structure
from reflow_lightning.running.difference import relative_difference
from reflow_lightning.running.own import own
from reflow_lightning.running.samples import resized


def random_like(inputs: A, seed: int = 0) -> A:
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

    drawn: A = tree_map_only(Tensor, draw, inputs)
    return drawn


class Expected:
    """The outputs of a network on some inputs, and how far another network's outputs are from them.

    They are compared on other numbers of samples too, of the first inputs, if the network runs on these.

    Args:
        model: The network, in eval mode.
        inputs: What it is called with.
        maybe: Made up inputs, which are left out if the network does not run on them.

    Raises:
        StepFailedError: If the network does not run on them.

    Example:
        >>> layer = torch.nn.Linear(2, 2)
        >>> Expected(layer, [(torch.ones(1, 2),)]).deviation(layer)
        0.0
    """

    def __init__(self, model: nn.Module, inputs: Sequence[Arguments], maybe: Sequence[Arguments] = ()) -> None:
        self._pairs = [(given, _run(model, given)) for given in inputs]
        for given in maybe:
            with suppress(StepFailedError):
                self._pairs.append((given, _run(model, given)))
        self.inputs = [given for given, _ in self._pairs]
        self._others = []
        numbers = [n for n in (1, 2, 3) if n != batch_size(self.inputs[0])]
        for given in (resized(self.inputs[0], n) for n in numbers[:2]):
            with suppress(StepFailedError):  # a network that can't do with another number
                self._others.append((given, _run(model, given)))

    def deviation(self, other: nn.Module) -> float:
        """The largest `relative_difference` of an output.

        Raises:
            ValueError: If the outputs have other shapes.
            StepFailedError: If the other network does not run.
        """
        whole = self._pairs[0][1]  # one sample's output may be next to nothing
        found = [relative_difference(expected, _run(other, given)) for given, expected in self._pairs]
        found += [relative_difference(expected, _run(other, given), whole) for given, expected in self._others]
        return max(found)

    def is_alike(self, other: nn.Module) -> bool:
        """Whether the outputs of another network lie in the same collections; of other types they may be of no use."""
        given, expected = self._pairs[0]
        return tree_structure(expected) == tree_structure(_run(other, given))


@torch.no_grad()
def _run(model: nn.Module, inputs: Arguments) -> Any:
    call = model.forward if isinstance(model, fx.GraphModule) else model  # whose call prints what fails
    with undisturbed(model):
        return tree_map_only(Tensor, torch.clone, attempted(called, call, own(inputs)))
