"""Linear layers: torch's, the transposed one of GPT-2, and the bilinear one."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from reflow_lightning.layers.affine import AffineMap, Stage
from reflow_lightning.layers.layer import Energies, OneMap, Weight, check_as_in_torch, squares, writable, writable_of
from reflow_lightning.layers.registry import layer_of
from reflow_lightning.running.hooks import Call


class LinearLayer(OneMap):
    """``y = x W' + b`` of a weight (outputs, inputs) and maybe a bias: `torch.nn.Linear`, and layers like it.

    For a linear layer of your own, whose parameters have these names, register this class as it is.

    Example:
        >>> import torch
        >>> class MyLinear(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.weight = nn.Parameter(torch.randn(3, 4))
        ...
        ...     def forward(self, x):
        ...         return x @ self.weight.T
        >>> layer_of.register(MyLinear, LinearLayer)
        >>> layer_of(MyLinear(), "fc").maps[0].channels
        3
    """

    weights: tuple[Weight, ...] = (Weight("weight"),)
    stages: tuple[Stage, ...] = (Stage((0,)),)

    def make_map(self) -> AffineMap:
        """See `OneMap`."""
        weight = writable(self.module, "weight").movedim(self.weights[0].outputs, 0)
        return AffineMap(self.name, len(weight), (weight,), writable_of(self.module, "bias"))

    def outputs(self, call: Call) -> list[Tensor]:
        """The output itself."""
        return [call.output.reshape(-1, call.output.shape[-1])]

    def inputs(self, index: int, call: Call) -> Iterator[Tensor]:
        """All positions are samples."""
        values = call.first
        yield values.reshape(1, -1, values.shape[-1])

    def energies(self, call: Call) -> Energies:
        """See `Layer`; also for a weight that can't be written."""
        energy = squares(call.first)
        yield "weight", energy if self.weights[0].inputs else energy[:, None]


class TorchLinearLayer(LinearLayer):
    """A `torch.nn.Linear`."""

    def make_map(self) -> AffineMap:
        """See `OneMap`."""
        check_as_in_torch(self.module)
        return super().make_map()


class TransposedLinearLayer(LinearLayer):
    """``y = x W + b`` of a weight (inputs, outputs): the ``Conv1D`` of GPT-2 in transformers."""

    weights: tuple[Weight, ...] = (Weight("weight", inputs=0, outputs=1),)


class BilinearLayer(OneMap):
    """A `torch.nn.Bilinear`, which multiplies the products of the values of its two inputs."""

    weights: tuple[Weight, ...] = (Weight("weight"),)
    stages: tuple[Stage, ...] = (Stage((0,)),)

    def make_map(self) -> AffineMap:
        """See `OneMap`."""
        check_as_in_torch(self.module)
        weight = writable(self.module, "weight")
        return AffineMap(self.name, len(weight), (weight,), writable_of(self.module, "bias"))

    def outputs(self, call: Call) -> list[Tensor]:
        """The output itself."""
        return [call.output.reshape(-1, call.output.shape[-1])]

    def inputs(self, index: int, call: Call) -> Iterator[Tensor]:
        """The products of all pairs of values; each position is a sample."""
        a, b = call.first, call.argument(1, "input2")
        yield (a[..., :, None] * b[..., None, :]).reshape(1, -1, a.shape[-1] * b.shape[-1])


layer_of.register(nn.Linear, TorchLinearLayer)
layer_of.register(nn.Bilinear, BilinearLayer)
layer_of.register("transformers.pytorch_utils.Conv1D", TransposedLinearLayer)
layer_of.register("torch_geometric.nn.dense.linear.Linear", LinearLayer)
