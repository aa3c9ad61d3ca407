"""Linear layers by whose weight a function multiplies: they are called, so that all who watch layers see it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from torch.nn import functional

from reflow_lightning.running.attention_mask import Around
from reflow_lightning.running.compat.torch import FunctionMode, own_parameters
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.hooks import eager


class ThroughLayers:
    """Turns a product with a linear layer's weight and bias into a call of the layer, which gives the same values.

    Some networks hand both to `torch.nn.functional.linear`, as the attention of torchvision's Swin does, and never call
    the layer. Its hooks, by which layers are watched, would see nothing of it. The first pass through a network finds
    such layers; if there are none, later passes have no mode of torch around them. All run within `eager`.

    A weight that is changed before it multiplies, such as a transposed one, is not found, nor is a product without the
    layer's bias.

    Example:
        >>> import torch
        >>> class Functional(nn.Sequential):
        ...     def forward(self, x):
        ...         return functional.linear(x, self[0].weight, self[0].bias)
        >>> model, seen = Functional(nn.Linear(2, 2)), []
        >>> _ = model[0].register_forward_hook(lambda *call: seen.append("called"))
        >>> model(torch.ones(1, 2)).equal(ThroughLayers().forward(nn.Module.__call__)(model, torch.ones(1, 2)))
        True
        >>> seen
        ['called']
    """

    def __init__(self) -> None:
        self._found: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()

    def forward(self, forward: Forward) -> Forward:
        """The forward pass that calls such layers."""

        def through(model: nn.Module, batch: Any) -> Any:
            names = self._found.get(model)
            with eager():  # in all passes, or those in which a mode of torch turns the fast path off would differ
                if names is not None and not names:
                    return forward(model, batch)
                layers = _linear_layers(model) if names is None else {n: model.get_submodule(n) for n in names}
                with _Products(layers) as products:
                    output = forward(model, batch)
            self._found.setdefault(model, products.found)  # now that the pass has run to its end
            return output

        return Around(forward, through)


def _linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Those that do what `torch.nn.Linear` does, with a weight of their own."""
    return {
        name: module
        for name, module in model.named_modules()
        if getattr(type(module), "forward", None) is nn.Linear.forward and "weight" in own_parameters(module)
    }


class _Products(FunctionMode):
    """Calls a layer where its weight multiplies outside of a layer.

    Attributes:
        found: The names of the layers that it has called.
    """

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.found: set[str] = set()
        self._layers = layers

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.linear and not _is_in_layer(inspect.currentframe()):
            given = dict(zip(("input", "weight", "bias"), args, strict=False)) | {**kwargs}
            for name, layer in self._layers.items():
                if layer.weight is given["weight"] and layer.bias is given.get("bias"):
                    self.found.add(name)
                    return layer(given["input"])  # while it runs, torch takes this mode off
        return func(*args, **kwargs)


def _is_in_layer(frame: FrameType | None) -> bool:
    """Whether `torch.nn.Linear` itself multiplies: hooks could not tell, as other threads may run the same layer."""
    while frame is not None and frame.f_code.co_name == "__torch_function__":  # of this mode and of others
        frame = frame.f_back
    return frame is not None and frame.f_code is nn.Linear.forward.__code__
