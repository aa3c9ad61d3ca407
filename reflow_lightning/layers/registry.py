"""Which class knows a kind of layer."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, TypeVar, overload

from torch import nn

from reflow_lightning.layers.layer import Layer

Make = Callable[[nn.Module, str], Layer | None]
"""``(module, name) -> what is known of it``: a subclass of `Layer`, or a function that picks one."""

M = TypeVar("M", bound=Make)


class LayerOf:
    """What is known of a module, by its type or the nearest of the types that it derives from; see `layer_of`."""

    def __init__(self) -> None:
        self._makers: dict[type[nn.Module] | str, Make] = {}  # by type, or by its full name

    def __call__(self, module: nn.Module, name: str = "") -> Layer | None:
        """The layer with its affine maps; ``None`` if it has none.

        Raises:
            NotSupportedError: If it has some that can't be written.
        """
        layer = self.known(module, name)
        return layer if layer is not None and layer.maps else None

    def known(self, module: nn.Module, name: str = "") -> Layer | None:
        """What is known of a module, whether its maps can be written or not; ``None`` if its type is unknown."""
        for kind in type(module).__mro__:
            make = self._maker(kind)
            if make is not None:
                return _checked(make(module, name), make)
        return None

    def names(self, kind: type[nn.Module]) -> bool:
        """Whether this very type is registered, and not one that it derives from."""
        return self._maker(kind) is not None

    def _maker(self, kind: type[Any] | str) -> Make | None:
        if isinstance(kind, str):
            return self._makers.get(kind)
        return self._makers.get(kind) or self._by_name(f"{kind.__module__}.{kind.__qualname__}")

    def _by_name(self, full: str) -> Make | None:
        exact = self._makers.get(full)
        if exact is not None or full.startswith("torch.nn."):
            return exact
        patterns = (known for known in self._makers if isinstance(known, str) and "*" in known)
        return next((self._makers[pattern] for pattern in patterns if fnmatchcase(full, pattern)), None)

    @overload
    def register(self, kind: type[nn.Module] | str) -> Callable[[M], M]: ...

    @overload
    def register(self, kind: type[nn.Module] | str, make: Make) -> None: ...

    def register(self, kind: type[nn.Module] | str, make: Make | None = None) -> Callable[[M], M] | None:
        """Say what is known of a type of module.

        Args:
            kind: The type, or its full name where the library that defines it may not be installed; a ``*`` in it
                stands for any text.
            make: A subclass of `Layer`, or a function ``(module, name) -> Layer``. Without it this is a decorator.

        Raises:
            TypeError: If the type is no module.
            ValueError: If the type is registered already.
        """
        if make is None:

            def decorator(made: M) -> M:
                self.register(kind, made)
                return made

            return decorator
        if not isinstance(kind, str) and not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            raise TypeError(f"layer_of.register got {kind!r}: pass a type of torch.nn.Module, not an instance")
        taken = self._maker(kind)
        if taken is not None and taken is not make:
            named, made = (getattr(found, "__qualname__", found) for found in (kind, taken))
            raise ValueError(
                f"{named} is registered with layer_of already, as {made}: derive a type of your own and register that"
            )
        self._makers[kind] = make
        return None


def _checked(layer: Any, make: Make) -> Layer | None:
    if layer is not None and not isinstance(layer, Layer):
        raise TypeError(
            f"layer_of: {getattr(make, '__qualname__', make)} gave a {type(layer).__name__}: derive it from "
            "reflow_lightning.layers.Layer, which says what it must tell"
        )
    return layer


layer_of = LayerOf()
"""What is known of a module, and where types of your own are registered.

``layer_of(module, name)`` gives its `Layer`; ``layer_of.register(MyLinear, LinearLayer)`` makes a type known: its
weights are pruned, its signal is measured, repairs write its maps.

Example:
    >>> from reflow_lightning.layers import layer_of
    >>> layer_of(nn.Linear(3, 4), "fc").maps[0].channels
    4
"""
