"""Linear layers that are never called, since a function is given their weight and bias: here they are called."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from torch.nn import functional

from reflow_lightning.running.attention_mask import Around
from reflow_lightning.running.compat.hooks import hooks_of
from reflow_lightning.running.compat.torch import FunctionMode, own_parameters
from reflow_lightning.running.compat.transforms import is_transformed
from reflow_lightning.running.eager import eager
from reflow_lightning.running.forward import Forward

_FORWARD = nn.Linear.forward
_FRAMES = 8
"""So far up the stack a layer that multiplies is looked for: modes of torch may stand between."""


class ThroughLayers:
    """Turns a product with a linear layer's weight and bias into a call of the layer, if nothing else calls it.

    The attention of torchvision's Swin hands both to `torch.nn.functional.linear`. The hooks by which layers are
    watched would see nothing of it. The values stay the same.

    The first pass through a network finds such layers; if it finds none, later passes have no mode of torch around
    them. Not found are layers without a bias, whose weight may as well be read for a penalty, layers that share a
    weight, or have hooks or a ``forward`` of their own, weights that change before they multiply, and products within
    another function of torch, such as `multi_head_attention_forward`, or a transform, such as `torch.func.jvp`.

    Example:
        >>> import torch
        >>> class Functional(nn.Sequential):
        ...     def forward(self, x):
        ...         return functional.linear(x, self[0].weight, self[0].bias)
        >>> from reflow_lightning.running.hooks import watching
        >>> model, seen = Functional(nn.Linear(2, 2)), []
        >>> run = ThroughLayers().forward(nn.Module.__call__)
        >>> with watching(model, ["0"], lambda name, call: seen.append(name)):
        ...     model(torch.ones(1, 2)).equal(run(model, torch.ones(1, 2)))
        True
        >>> seen
        ['0']
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
                layers = {n: layer for n, layer in _linear_layers(model).items() if names is None or n in names}
                with _Products(layers) as products:
                    output = forward(model, batch)
            self._found.setdefault(model, products.found - products.called)  # now that the pass has run to its end
            return output

        return Around(forward, through)


def _linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Those that do what `torch.nn.Linear` does and nothing else, with a weight that no other module has."""
    holders = Counter(id(p) for module in model.modules() for p in own_parameters(module).values())
    found = {}
    for name, module in model.named_modules():
        if getattr(type(module), "forward", None) is _FORWARD and "forward" not in vars(module):
            weight = own_parameters(module).get("weight")
            if weight is not None and holders[id(weight)] == 1 and all(map(_is_ours, hooks_of(module))):
                found[name] = module
    return found


def _is_ours(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("reflow_lightning.")


class _Products(FunctionMode):
    """Calls a layer where its weight multiplies outside of a layer.

    Attributes:
        found: The names of the layers that it has called.
        called: The names of those that were called otherwise.
    """

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.called: set[str] = set()
        self._layers = layers
        self._names = {id(layer.weight): name for name, layer in layers.items()}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.linear:
            given = dict(zip(("input", "weight", "bias"), args, strict=False)) | {**kwargs}
            name = self._names.get(id(given["weight"]))
            in_transform = is_transformed(given["input"])  # whose networks are no sequence of layers
            if name is not None and not in_transform and self._calls(name, given["weight"], given.get("bias")):
                self.found.add(name)
                return self._layers[name](given["input"])  # torch has taken this mode off, so that it ends there
        return func(*args, **kwargs)

    def _calls(self, name: str, weight: Any, bias: Any) -> bool:
        """Whether a product shall be a call of the layer."""
        layer = self._layers[name]
        if _is_within(layer, inspect.currentframe()):
            self.called.add(name)
        return bias is not None and layer.weight is weight and layer.bias is bias and name not in self.called


def _is_within(layer: nn.Module, frame: FrameType | None) -> bool:
    """Whether the layer itself multiplies. A hook could not tell: other threads may run the same layer."""
    for _ in range(_FRAMES):
        if frame is None:
            break
        if frame.f_code is _FORWARD.__code__ and frame.f_locals.get("self") is layer:
            return True
        frame = frame.f_back
    return False
