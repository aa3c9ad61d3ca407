"""Which module each rectifier is, and after which layer it stands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from reflow_lightning.running.hooks import Call, watching, watching_inputs
from reflow_lightning.signal.rectifiers import Rectified, watching_rectifiers

_FUNCTION = "is a function in a forward pass: make it a module, such as nn.GELU()"


class RectifierPlaces:
    """The rectifiers of a network that are modules of their own, each directly after one layer.

    Args:
        model: The network.

    Attributes:
        replaceable: Name of the rectifier by the name of the layer before it.
        others: What is known of the rectifiers that are no such modules, by the name of the layer before them.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 8), nn.LayerNorm(8), nn.GELU())
        >>> places = RectifierPlaces(model)
        >>> with places.watching(model):
        ...     _ = model(torch.randn(2, 4))
        >>> places.replaceable, places.others
        ({'0': '1'}, {'2': 'does not follow directly: a norm or something else stands between'})
    """

    def __init__(self, model: nn.Module) -> None:
        self._single = [name for name, m in model.named_modules() if name and not any(True for _ in m.children())]
        self._running: list[str] = []
        self._outputs: dict[str, tuple[int, int]] = {}
        self._modules: dict[str, set[str]] = {}
        self._reasons: dict[str, str] = {}

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Note where rectifiers are while the model runs during the block."""
        with (
            watching_inputs(model, self._single, lambda name, _: self._running.append(name)),
            watching(model, self._single, self._left),
            watching_rectifiers(model, lambda call: self._heard(model, call)),
        ):
            yield

    @property
    def others(self) -> dict[str, str]:
        """See the class."""
        served: dict[str, set[str]] = {}
        for layer, modules in self._modules.items():
            for module in modules:
                served.setdefault(module, set()).add(layer)
        shared = {layer for layers in served.values() if len(layers) > 1 for layer in layers}
        several = {layer for layer, modules in self._modules.items() if len(modules) > 1}
        found = dict.fromkeys(sorted(shared), "is one module that serves several layers: give each its own")
        return found | dict.fromkeys(sorted(several), "is one of several after this layer") | self._reasons

    @property
    def replaceable(self) -> dict[str, str]:
        """See the class."""
        return {layer: next(iter(modules)) for layer, modules in self._modules.items() if layer not in self.others}

    def _left(self, name: str, call: Call) -> None:
        self._running.pop()
        if isinstance(call.output, Tensor):
            self._outputs[name] = _memory(call.output)

    def _heard(self, model: nn.Module, call: Rectified) -> None:
        layer = call.layer
        running = self._running[-1] if self._running else None
        if running is None or any(True for _ in model.get_submodule(running).parameters()):
            self._reasons[layer] = _FUNCTION
        elif self._outputs.get(layer) != _memory(call.values):
            self._reasons[layer] = "does not follow directly: a norm or something else stands between"
        else:
            self._modules.setdefault(layer, set()).add(running)


def _memory(values: Tensor) -> tuple[int, int]:
    return values.data_ptr(), values.numel()
