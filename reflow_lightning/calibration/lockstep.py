"""All batches at the same time through a pruned network and its dense one; they wait at each layer that is repaired."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any, NamedTuple

from torch import nn

from reflow_lightning.calibration.changing import not_reached, stray
from reflow_lightning.calibration.layer_calls import Arrival, by_batch, calls_of, dtype_of, same_rows
from reflow_lightning.layers.layer import Layer
from reflow_lightning.layers.padding import Padding, Valid
from reflow_lightning.layers.rows import RowsWatch
from reflow_lightning.running.compat.hooks import has_hooks
from reflow_lightning.running.compat.torch import BatchNorm
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.generators import generators_in
from reflow_lightning.running.hooks import Call, in_type, watching, watching_inputs
from reflow_lightning.running.traces import Traces
from reflow_lightning.running.walks import RunsThroughError, Walk, current_walk


class RunAnewError(Exception):
    """A network keeps a state of its own, so that all batches must run anew for each layer."""


class LockStep:
    """Batches that are under way in two networks, and arrive at one layer after the other.

    A layer can be solved for once all batches have arrived at it. So each batch runs through each network once, in a
    thread of its own that waits at every layer in ``layers``; one thread alone computes at a time. What is alive then
    is what a forward pass holds between two layers, for each batch and network.

    Batches beyond ``most``, and those that take another way than the first, run anew for each layer; so do all batches
    at a layer that is called several times.

    Args:
        model: The pruned network.
        reference: The dense network.
        layers: The layers that are waited at, in the order in which the batches reach them.
        calls: How often a forward pass calls each.
        batches: The batches; to be read again where some run anew.
        forward: Runs a network on a batch.
        padding: Finds out what is padding.
        most: So many batches may be under way.

    Attributes:
        beyond: How many batches were more than that.
    """

    def __init__(
        self,
        model: nn.Module,
        reference: nn.Module,
        layers: Mapping[str, Layer],
        calls: Mapping[str, int],
        batches: Iterable[Any],
        forward: Forward,
        padding: Padding,
        most: int,
    ) -> None:
        self.beyond = 0
        self._most = most
        self._model, self._reference, self._layers, self._calls = model, reference, layers, calls
        self._batches, self._forward, self._padding = batches, forward, padding
        several = {name for name, layer in layers.items() if len(layer.stages) > 1 or layer.stages[0].dense_inputs}
        self._apart = {n for n, m in calls.items() if m > 1 or (n in several and has_hooks(model.get_submodule(n)))}
        self._several = several - self._apart
        self._pending = {name: None for name in calls if name not in self._apart}
        self._pairs: dict[int, _Pair] = {}
        self._strayed: set[int] = set()  # places of batches that take another way than the first
        self._count: int | None = None  # of the batches, once they are known
        self._stack = ExitStack()
        self._generators = (*generators_in(model), *generators_in(reference))
        self._at_rest: list[Traces] = []  # of both networks, when nothing was under way
        self._traces: dict[type[Walk], Traces] = {}  # when the first batch had stopped for the first time

    def __enter__(self) -> LockStep:
        single = self._pending.keys() - self._several
        self._stack.callback(self.end)
        self._stack.enter_context(watching_inputs(self._model, single, self._before))
        self._stack.enter_context(watching(self._model, [*self._several, *self._apart], self._after))
        self._stack.enter_context(watching(self._reference, self._pending, self._in_dense))
        self._at_rest = [self._traces_of(_DenseWalk), self._traces_of(Walk)]
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def normalise_by_batch(self, layers: Iterable[BatchNorm]) -> None:
        """Have BatchNorm layers of the pruned network normalise by the batch at hand, until all is over."""
        self._stack.enter_context(by_batch(layers))

    def arrivals(self, name: str, anew: bool = False) -> Iterator[Arrival]:
        """Each batch at a layer.

        Args:
            name: The layer.
            anew: Have the layer compute its outputs once more, as it was changed since.

        Raises:
            RunAnewError: If a network keeps a state. Then all batches run anew from now on, for this layer too.
        """
        waits = self._most > 0 and name in self._pending
        if not waits:
            self.end()  # as what was computed with the layer will be void
        if waits and len(self._pairs) == self._count:
            found = [self._arrived(name, place, pair, anew) for place, pair in self._pairs.items()]
            if None not in found:
                yield from (arrival for arrival in found if arrival is not None)
                return
        starts, count = waits and not self._pairs, 0
        for place, batch in enumerate(self._batches):
            count += 1
            if starts and place < self._most and place not in self._strayed:
                self._pairs[place] = self._started(batch)
            pair = self._pairs.get(place)
            arrival = None if pair is None else self._arrived(name, place, pair, anew)
            if arrival is None:
                arrival = self._run_anew(name, batch)
                if pair is not None and (arrival.own or arrival.dense):  # it took another way, and must not go on
                    self._strayed.add(place)
                    self._pairs.pop(place).end()
            yield arrival
        self._count = count
        self.beyond = max(self.beyond, count - self._most) if waits else self.beyond

    def _traces_of(self, kind: type[Walk]) -> Traces:
        """What passes change in the network of a walk, except what the repair writes."""
        if kind is _DenseWalk:
            return Traces(self._reference)
        norms = [module for module in self._model.modules() if isinstance(module, BatchNorm)]
        return Traces(self._model, but=[*(self._model.get_submodule(name) for name in self._layers), *norms])

    def done(self, name: str) -> None:
        """Let the batches go on: the layer is what it shall be."""
        self._pending.pop(name, None)

    def end(self) -> None:
        """End all that is under way."""
        for pair in self._pairs.values():
            pair.end()
        self._pairs = {}
        self._traces = {}
        self._count = None

    def _started(self, batch: Any) -> _Pair:
        valid = self._padding.of(self._model, batch, self._forward)
        rows, dense_rows = RowsWatch(self._model), RowsWatch(self._reference)
        own, dense = (
            kind(partial(_run, self._forward, network, batch, watch), self._generators)
            for kind, network, watch in ((Walk, self._model, rows), (_DenseWalk, self._reference, dense_rows))
        )
        return _Pair(own, dense, rows, dense_rows, valid)

    def _arrived(self, name: str, place: int, pair: _Pair, anew: bool) -> Arrival | None:
        """A batch that is under way, once it is at the layer; ``None`` if it is not seen to come there."""
        try:
            dense = self._reach(pair.dense, name)
            if anew and pair.own.at is not None and pair.own.at[0] == name and name in self._several:
                pair.own.go(anew)
            own = self._reach(pair.own, name)
        except RunsThroughError as error:
            self._most = 0
            self.end()
            for traces in self._at_rest:
                traces.restore()
            raise RunAnewError from error
        except Exception as error:
            error.add_note(f"This was in batch {place}, on its way to layer '{name}'.")
            raise
        if dense is None or own is None:
            return None
        return Arrival(own, dense, same_rows(own, pair.rows, dense, pair.dense_rows), pair.valid)

    def _reach(self, walk: Walk, name: str) -> list[Call] | None:
        """The call of a layer at which a walk stops; none after its end; ``None`` if it waits elsewhere."""
        while not walk.over and (walk.at is None or walk.at[0] not in self._pending):
            walk.go()
            if type(walk) not in self._traces:  # within the blocks that a forward pass puts around the network
                self._traces[type(walk)] = self._traces_of(type(walk))
            elif not walk.over and self._traces[type(walk)].changed():
                raise RunsThroughError
        if walk.over:
            return []
        return [walk.at[1]] if walk.at[0] == name else None

    def _run_anew(self, name: str, batch: Any) -> Arrival:
        """A batch that runs through both networks as far as the layer, and ends there."""
        valid = self._padding.of(self._model, batch, self._forward)
        rows, dense_rows = RowsWatch(self._model), RowsWatch(self._reference)
        with watching(self._model, [name], stray):
            dense = calls_of(self._reference, name, batch, self._forward, self._calls[name], dense_rows)
        own = calls_of(self._model, name, batch, self._forward, self._calls[name], rows)
        return Arrival(own, dense, same_rows(own, rows, dense, dense_rows), valid)

    def _before(self, name: str, call: Call) -> None:
        """Wait before the layer is computed, which is then done with what was solved."""
        walk = _own_walk(name)
        if walk is not None and name in self._pending:
            walk.stop((name, in_type(call, dtype_of(self._model, name))))

    def _after(self, name: str, call: Call) -> Any:
        """Wait after the layer was computed, which is done anew as often as it has changed."""
        walk = _own_walk(name)
        if walk is None or name not in self._pending:
            return None
        anew = True
        while anew:
            anew = walk.stop((name, in_type(call, dtype_of(self._model, name))))
            call = call._replace(output=self._layers[name].module.forward(*call.args, **call.kwargs))
        return call.output

    def _in_dense(self, name: str, call: Call) -> None:
        walk = current_walk()
        if isinstance(walk, _DenseWalk) and name in self._pending:
            walk.stop((name, in_type(call, dtype_of(self._reference, name))))


class _Pair(NamedTuple):
    """A batch that is under way in both networks."""

    own: Walk
    dense: Walk
    rows: RowsWatch
    dense_rows: RowsWatch
    valid: Valid

    def end(self) -> None:
        self.own.end()
        self.dense.end()


class _DenseWalk(Walk):
    """One through the dense network."""


def _own_walk(name: str) -> Walk | None:
    """The walk through the pruned network in whose thread this is called."""
    walk = current_walk()
    if isinstance(walk, _DenseWalk):
        raise not_reached(name)
    return walk


def _run(forward: Forward, network: nn.Module, batch: Any, watch: AbstractContextManager[Any]) -> None:
    with watch:
        forward(network, batch)
