"""A network and the dense one, run on the same batches and compared in their states."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from reflow_lightning.calibration.states import States, last_layer, mismatch, state_names, states_of, unpaired_blocks
from reflow_lightning.layers.padding import Padding
from reflow_lightning.running.compat.torch import own_buffers
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.generators import generators_in
from reflow_lightning.running.isolation import isolated_rng
from reflow_lightning.running.processes import gather
from reflow_lightning.running.traces import Traces


class Compared:
    """A network and the dense one, which are run on the same batches and draw the same."""

    def __init__(self, model: nn.Module, dense: nn.Module, forward: Forward, logits: float) -> None:
        self._model, self._forward, self._logits = model, forward, logits
        self._names, self._padding = state_names(model), Padding(model)
        self._generators = {network: generators_in(network) for network in (model, dense)}
        self._dense = dense
        self._head: str | None = None
        self._unpaired: set[str] = set()
        # What a network keeps from one pass to the next would hold the graph of the first.
        self._traces = [Traces(network, but=network.modules()) for network in (model, dense)]

    def loss(self, batch: Any, seed: int) -> Tensor:
        """The mismatch on a batch; the seed is for what the networks draw.

        Raises:
            ValueError: If the dense network puts out NaN or infinite values.
        """
        with torch.no_grad():
            valid = self._padding.of(self._model, batch, self._forward)
            wanted = self._states(self._dense, batch, seed)
            if self._head is None and all(values.numel() < 2 for values in wanted.outputs):  # a loss tells too little
                with self._undisturbed(self._dense, seed):
                    self._head = last_layer(self._dense, batch, self._forward)
                wanted = self._states(self._dense, batch, seed)
        found = self._states(self._model, batch, seed)
        self._unpaired |= unpaired_blocks(found, wanted)
        loss = mismatch(found, wanted, self._logits, valid, self._unpaired)
        if not bool(loss.isfinite()) and not wanted.are_finite():
            raise ValueError("the dense network puts out NaN or infinite values: look at the batches")
        return loss

    @torch.no_grad()
    def mean_loss(self, batches: Iterable[Any]) -> float:
        """The mean over the batches of all processes; what is drawn for each is the same every time."""
        losses = [float(self.loss(batch, place)) for place, batch in enumerate(batches)]
        told: list[float] = [loss for of_rank in gather(losses) for loss in of_rank]
        return sum(told) / max(1, len(told))

    def _states(self, model: nn.Module, batch: Any, seed: int) -> States:
        with self._undisturbed(model, seed):
            return states_of(model, self._names, batch, self._forward, self._head)

    @contextmanager
    def _undisturbed(self, model: nn.Module, seed: int) -> Iterator[None]:
        """A block in which a network runs: it draws by the seed, and keeps nothing of the pass."""
        with isolated_rng(seed, self._generators[model]):
            yield
        for traces in self._traces:
            traces.restore()
        for module in model.modules():
            for buffer in own_buffers(module).values():
                if buffer is not None and buffer.requires_grad:
                    buffer.detach_()
