"""What is known of one layer, in one place: its weights, its channels, its affine maps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from reflow_lightning.layers.affine import AffineMap, Stage
from reflow_lightning.running.compat.hooks import computed_by, pre_hooks
from reflow_lightning.running.compat.torch import own_parameters
from reflow_lightning.running.errors import ReflowError
from reflow_lightning.running.exact import exact
from reflow_lightning.running.hooks import Call

Energies = Iterator[tuple[str, Tensor]]
"""Names of weights within a module, and sums of squares of what each element multiplies, of its shape or broadcast."""


class NotSupportedError(ReflowError):
    """Why the affine maps of a module can't be written, or what its weights multiply can't be seen."""


class Weight(NamedTuple):
    """A matrix of a layer that multiplies the signal, so that it may be pruned.

    Attributes:
        name: Its name within the module.
        inputs: The dimension that runs along the input channels.
        outputs: The dimension that runs along the output channels.
        groups: How often the output channels repeat what stands along that dimension: 1, but in a transposed
            convolution with groups.
        stacked: Whether it is a stack of matrices, which lie along dimension 0.
    """

    name: str
    inputs: int = 1
    outputs: int = 0
    groups: int = 1
    stacked: bool = False


class Layer:
    """What is known of a module. A subclass says what it knows; each default says that nothing is known.

    Args:
        module: The module.
        name: Its name in the model.

    Attributes:
        weights: Its prunable matrices. The module may lack some of them, as they depend on its arguments, or compute
            them in each forward pass.
        is_norm: Whether it normalises the signal, so that its weight is a scale for each channel.
        is_embedding: Whether its weight is a table that is looked up.
        channel_dim: Channel dimension of the module's output.
        time_first: Whether an output of three dimensions is (time, samples, channels).
        dim: ``channel_dim``, if the output is the y of the last of `maps`; ``None`` if it is not.
        stages: In which order the maps are solved for; empty if their inputs can't be laid out.
        feeds_back: Whether its outputs are inputs of its own, as in a recurrent layer.
        sees_inputs: Whether `energies` knows what the weights multiply.

    Example:
        >>> class Scale(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.weight = nn.Parameter(torch.ones(4))
        ...
        ...     def forward(self, x):
        ...         return self.weight * x
        >>> class ScaleLayer(Layer):
        ...     @property
        ...     def maps(self):
        ...         return (AffineMap(self.name, 4, (writable(self.module, "weight"),)),)
        >>> ScaleLayer(Scale(), "scale").maps[0].channels
        4
    """

    weights: tuple[Weight, ...] = ()
    is_norm: ClassVar[bool] = False
    is_embedding: ClassVar[bool] = False
    channel_dim: int = -1
    time_first: bool = False
    stages: tuple[Stage, ...] = ()
    feeds_back: ClassVar[bool] = False

    def __init__(self, module: nn.Module, name: str = "") -> None:
        self.module = module
        self.name = name

    @property
    def maps(self) -> tuple[AffineMap, ...]:
        """The affine maps, in the order in which they act; none if there is nothing to write.

        They are made anew for each access: under `fully_shard` parameters move.

        Raises:
            NotSupportedError: If there are some that can't be written.
        """
        return ()

    @property
    def dim(self) -> int | None:
        """See the class."""
        return self.channel_dim

    @property
    def sees_inputs(self) -> bool:
        """See the class."""
        return bool(self.stages)

    def outputs(self, call: Call) -> list[Tensor]:
        """The y of every map, with the channels in dimension 1. By default the output is the one y."""
        output: Tensor = call.output
        return [output.movedim(self.channel_dim, 1) if output.ndim > 1 else output[None]]

    def inputs(self, index: int, call: Call) -> Iterator[Tensor]:
        """The x of a map in pieces of shape (groups, samples, inputs), the inputs of its weights side by side."""
        return iter(())

    def products(self, index: int, call: Call, outputs: Tensor) -> Tensor | None:
        """Sums of the products of (1, x) with (1, x, y) of a map, where they can be had without laying out x.

        Args:
            index: The map, of one group.
            call: A call.
            outputs: The y, with the channels in dimension 1.

        Returns:
            Tensor of shape (1 + K, 1 + K + O) in float64, whose first column need not be filled below row 0; ``None``
            where `inputs` must be laid out.
        """
        return None

    def energies(self, call: Call) -> Energies:
        """What each weight multiplies in a call, whose output need not be there yet, as sums of squares.

        By default they follow from `inputs`, for a layer of one weight and one map.

        Raises:
            NotSupportedError: If they are not known.
        """
        if not self.stages or len(self.maps) != 1 or len(self.weights) != 1:
            raise NotSupportedError(f"{type(self).__name__} does not say what its weights multiply")
        affine, (weight,) = self.maps[0], self.weights
        pieces = (exact(x).square().sum(1) for x in self.inputs(0, call))  # (groups, inputs) each
        by_group = torch.stack(list(pieces)).sum(0)
        rows = by_group.repeat_interleave(affine.channels // affine.groups, 0)
        yield weight.name, rows.view(affine.weights[0].shape).movedim(0, weight.outputs)


class OneMap(Layer):
    """A layer of one map: ``y = W x + b``."""

    @property
    def maps(self) -> tuple[AffineMap, ...]:
        """The map; see `Layer`."""
        return (self.make_map(),)

    def make_map(self) -> AffineMap:
        """The map.

        Raises:
            NotSupportedError: If it can't be written.
        """
        raise NotSupportedError(f"{type(self).__name__} says nothing of its map")


_REMEDY = ", but computed in each pass: take that off, as by remove_parametrizations, once its zeros are final"


def writable(module: nn.Module, name: str) -> Tensor:
    """A view of a parameter that the module itself holds.

    Raises:
        NotSupportedError: If it computes it from others, or has none that can be written.
    """
    parameter = own_parameters(module).get(name)
    if parameter is None:
        raise NotSupportedError(f"its {name} is no plain parameter{_REMEDY if is_computed(module, name) else ''}")
    if not parameter.is_floating_point() or nn.parameter.is_lazy(parameter) or parameter.is_meta:
        raise NotSupportedError(f"its {name} holds no floating-point values")
    return parameter.detach()


def is_computed(module: nn.Module, name: str) -> bool:
    """Whether a parametrization or a hook computes a tensor of a module in each pass, as `weight_norm` does.

    Example:
        >>> is_computed(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)), "weight")
        True
    """
    by_hook = any(computed_by(hook) == name for hook in pre_hooks(module))
    return by_hook or parametrize.is_parametrized(module, name)


def writable_of(module: nn.Module, *names: str) -> tuple[Tensor, ...]:
    """Views of the named parameters, as far as the module has them; see `writable`."""
    return tuple(writable(module, name) for name in names if getattr(module, name, None) is not None)


def has_own_forward(module: nn.Module, *methods: str) -> bool:
    """Whether a subclass of a layer of ``torch.nn`` overrides its forward pass, as the layers of ``torch.ao`` do.

    Args:
        module: The module.
        methods: Methods beside ``forward`` that count too.
    """
    return not all(getattr(type(module), method).__module__.startswith("torch.nn.") for method in ("forward", *methods))


def check_as_in_torch(module: nn.Module, *methods: str) -> None:
    """Check that a subclass of one of torch's layers computes what torch's layer does.

    Raises:
        NotSupportedError: If it has a forward of its own, which may put channels elsewhere or change weights first.
    """
    if has_own_forward(module, *methods):
        raise NotSupportedError(f"{type(module).__name__} has a forward of its own: register it with layer_of")


def squares(values: Tensor) -> Tensor:
    """Sum of squares of each feature, the last dimension, in float64."""
    return exact(values).square().reshape(-1, values.shape[-1]).sum(0)
