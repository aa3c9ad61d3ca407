"""Multiply-adds counted while a model runs, by the layer whose weight takes part."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn

from reflow_lightning.cost.products import Product, is_unknown, name_of, product_of
from reflow_lightning.running.arguments import Arguments
from reflow_lightning.running.compat.torch import (
    TorchDispatchMode,
    is_traceable_wrapper_subclass,
    own_parameters,
    tree_leaves,
)
from reflow_lightning.running.hooks import watching, watching_inputs
from reflow_lightning.running.live import storages
from reflow_lightning.running.names import owner_of


class Source(NamedTuple):
    """Where the values of a piece of memory come from: a parameter, or what was made of parameters alone.

    Attributes:
        start: The first byte.
        stop: The byte after the last.
        names: Of the parameter, as tied weights have several; if it was made of several, of the largest.
        size: Values of the parameter.
        itself: Whether it is the parameter.
    """

    start: int
    stop: int
    names: tuple[str, ...]
    size: int
    itself: bool


class Count:
    """Multiply-adds of a layer.

    Attributes:
        multiply_adds: All with its weights.
        effective: Those with values that are not zero.
        names: Parameters that took part, each by one of its names.
        origins: Parameters that a tensor was computed from that took part.
    """

    def __init__(self) -> None:
        self.multiply_adds = self.effective = 0
        self.names: set[str] = set()
        self.origins: set[str] = set()


class ProductCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts products, each once, and for the layer that owns the weight in it.

    A weight is known by its memory, so that a layer may use it without being called, and through any view. What is made
    of weights alone, such as a copy in another type or a weight norm, counts as a weight too, with its own zeros. Where
    several layers own a weight, the one that is running counts.

    Attributes:
        total: Of all products.
        layers: By module name.
        uncounted: Operators that may well hold products, but have no formula.
        parameters: Of the model, by each name that a tied one has.
    """

    supports_higher_order_operators = True

    def __init__(self, model: nn.Module, inputs: Arguments) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0
        self.layers: dict[str, Count] = defaultdict(Count)
        self.uncounted: dict[str, None] = {}
        self._model = model
        self._running: list[str] = []
        self._sources: WeakKeyDictionary[torch.UntypedStorage, list[Source]] = WeakKeyDictionary()
        self._activations = WeakSet(storages(inputs))
        self.parameters = {
            f"{prefix}.{name}".removeprefix("."): parameter
            for prefix, module in model.named_modules()  # a module that has several names by its first one
            for name, parameter in own_parameters(module).items()
        }
        names: dict[int, list[str]] = defaultdict(list)
        for name, parameter in self.parameters.items():
            names[id(parameter)].append(name)
        for found in names.values():
            parameter = self.parameters[found[0]]
            for memory in storages(parameter):
                start = int(parameter.storage_offset()) * parameter.element_size()
                source = Source(start, start + parameter.nbytes, tuple(found), parameter.numel(), True)
                self._sources.setdefault(memory, []).append(source)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what the block runs."""
        several = [source.names for sources in self._sources.values() for source in sources if len(source.names) > 1]
        owners = {owner_of(name) for names in several for name in names}

        def leave(name: str, _: Any) -> None:
            self._running.remove(name)

        with ExitStack() as stack:
            stack.enter_context(watching_inputs(self._model, owners, lambda name, _: self._running.append(name)))
            stack.enter_context(watching(self._model, owners, leave))
            stack.enter_context(self)
            yield

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(map(is_traceable_wrapper_subclass, tree_leaves((args, kwargs)))):
            return NotImplemented  # it runs operators on the tensors within, which come here
        if hasattr(func, "decompose") and not name_of(func).startswith("prim."):
            with self:  # in inference mode, operators that consist of others come here whole
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        product = product_of(func, args, kwargs, out)
        if product is not None:
            self._take_in(product)
        elif is_unknown(func):
            self.uncounted[name_of(func)] = None
        self._follow((args, kwargs), out)
        return out

    def _take_in(self, product: Product) -> None:
        self.total += product.multiply_adds
        for operand in reversed(product.operands):
            source = self._source(operand)
            if source is None or not operand.numel():
                continue
            owners = [owner_of(name) for name in source.names]
            layer = self.layers[next((name for name in reversed(self._running) if name in owners), owners[0])]
            layer.multiply_adds += product.multiply_adds
            layer.effective += product.multiply_adds * int(operand.count_nonzero()) // operand.numel()
            (layer.names if source.itself else layer.origins).add(source.names[0])
            return

    def _source(self, operand: Tensor) -> Source | None:
        place = operand.storage_offset() * operand.element_size()
        sources = (source for memory in storages(operand) for source in self._sources.get(memory, ()))
        return next((source for source in sources if source.start <= place < source.stop), None)

    def _follow(self, given: Any, out: Any) -> None:
        """Note whether a result depends on the model's inputs, or on weights alone."""
        new = [memory for memory in storages(out) if memory not in self._sources]
        if not new:
            return
        if any(memory in self._activations for memory in storages(given)):
            self._activations.update(new)
            return
        tensors = (value for value in tree_leaves(given) if isinstance(value, Tensor))
        found = max(filter(None, map(self._source, tensors)), key=lambda source: source.size, default=None)
        if found is not None:
            for memory in new:
                self._sources[memory] = [found._replace(start=0, stop=memory.nbytes(), itself=False)]
