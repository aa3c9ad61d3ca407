"""Stacks of matrices, where each input meets one of them: a mixture's experts, the layers for a graph's types."""

from __future__ import annotations

from torch import nn

from reflow_lightning.layers.layer import Layer, Weight
from reflow_lightning.layers.registry import layer_of
from reflow_lightning.running.compat.torch import own_parameters

_TRANSPOSED = frozenset(("GptOssExperts", "Llama4TextExperts"))
"""Experts of older versions of transformers, which do not say of themselves that they are."""


class StackLayer(Layer):
    """A module whose parameters of three dimensions are stacks (matrices, outputs, inputs).

    Which inputs reach which of the matrices the module decides, so that repairs leave them alone, and ``"wanda"`` can't
    see their inputs.

    Example:
        >>> import torch
        >>> class Experts(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.up = nn.Parameter(torch.randn(4, 16, 8))
        ...         self.bias = nn.Parameter(torch.zeros(4, 16))
        >>> layer_of.register(Experts, StackLayer)
        >>> layer_of.known(Experts()).weights
        (Weight(name='up', inputs=2, outputs=1, groups=1, stacked=True),)
    """

    transposed = False

    def __init__(self, module: nn.Module, name: str = "") -> None:
        super().__init__(module, name)
        inputs, outputs = (1, 2) if self.transposed else (2, 1)
        self.weights = tuple(
            Weight(name, inputs=inputs, outputs=outputs, stacked=True)
            for name, parameter in own_parameters(module).items()
            if not nn.parameter.is_lazy(parameter) and parameter.ndim == 3
        )


class TransposedStackLayer(StackLayer):
    """As `StackLayer`, with stacks (matrices, inputs, outputs)."""

    transposed = True


def _experts(module: nn.Module, name: str) -> Layer | None:
    transposed = getattr(module, "is_transposed", type(module).__name__ in _TRANSPOSED)
    layer = (TransposedStackLayer if transposed else StackLayer)(module, name)
    return layer if layer.weights else None  # some are lists of modules


layer_of.register("transformers.models.*Experts", _experts)
layer_of.register("torch_geometric.nn.dense.linear.HeteroLinear", TransposedStackLayer)
