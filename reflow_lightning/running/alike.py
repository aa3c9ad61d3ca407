"""Forward passes that can be compared: on a batch of their own, with the same random numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from reflow_lightning.running.attention_mask import Around
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.generators import generators_in
from reflow_lightning.running.isolation import isolated_rng
from reflow_lightning.running.own import own
from reflow_lightning.running.through_layers import ThroughLayers
from reflow_lightning.running.units import from_outermost
from reflow_lightning.running.world import rank, world_size


class Alike:
    """Has every network that is run on a batch get the same: a copy of the batch, and the same random numbers.

    A network that changes its input leaves the batch as it is, and one that draws noise draws the same for the batch of
    the same place in each pass, on the same kind of device. That holds for Python, NumPy, PyTorch and the generators
    that the network holds, whose states are left as they were. The numbers depend on the random state in which this
    was made, on the process, and on the place of the batch. A batch that is not the current one of a pass, such as a
    part of it, is copied too, and draws on.

    The cost of a forward pass is a copy of the batch; see `own`.

    Example:
        >>> alike, batch = Alike(), torch.ones(2)
        >>> run = alike.forward(lambda model, x: model(x.mul_(torch.rand(2))))
        >>> [torch.equal(run(nn.Identity(), x), run(nn.Identity(), x)) for x in alike.each([batch])], batch
        ([True], tensor([1., 1.]))
    """

    def __init__(self) -> None:
        with isolated_rng():
            self._seed = int(torch.randint(2**62, (), device="cpu"))
        self._place = 0
        self._batch: Any = None
        self._generators: WeakKeyDictionary[nn.Module, list[Any]] = WeakKeyDictionary()
        self._told: set[str] = set()
        self._through = ThroughLayers()

    def each(self, batches: Iterable[Any]) -> Iterator[Any]:
        """A pass over batches."""
        for place, batch in enumerate(batches):
            self._place, self._batch = place, batch
            yield batch
        self._batch = None

    def forward(self, forward: Forward) -> Forward:
        """The forward pass that is alike, and calls linear layers that functions use; see `ThroughLayers`."""
        through = self._through.forward(from_outermost(forward))

        def alike(model: nn.Module, batch: Any) -> Any:
            with self._drawing(model, batch):
                return through(model, own(batch, self._told))

        return Around(forward, alike)

    def _drawing(self, model: nn.Module, batch: Any) -> AbstractContextManager[None]:
        if batch is not self._batch:
            return nullcontext()
        if model not in self._generators:
            self._generators[model] = generators_in(model)
        return isolated_rng(self._seed + self._place * world_size() + rank(), self._generators[model])
