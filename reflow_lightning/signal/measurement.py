"""Statistics of the chosen layers of a network, batch by batch, and over processes."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from reflow_lightning.layers.padding import Valid
from reflow_lightning.layers.rows import RowsWatch
from reflow_lightning.running.compat.torch import Unwatched
from reflow_lightning.running.exact import exact_device
from reflow_lightning.running.processes import gather, warn
from reflow_lightning.signal.gathering import Gathering
from reflow_lightning.signal.histogram import value_counts
from reflow_lightning.signal.layer_entropy import RectifierStates
from reflow_lightning.signal.layer_row import row_of
from reflow_lightning.signal.leaving import NothingToMeasureError, leaving_out, merge_reasons, warn_of_left_out
from reflow_lightning.signal.metrics import METRICS, gathered_for
from reflow_lightning.signal.probe import channel_dim, is_time_first, listening
from reflow_lightning.signal.reading import read, read_valid
from reflow_lightning.signal.report import SignalReport
from reflow_lightning.signal.statistics import by_channel

_PAIRED = ("cosine", "cka")


class _Seen(NamedTuple):
    """One call of a layer: its outputs, pooled over positions, and the number of the rows; see `RowsWatch`."""

    pooled: Tensor
    rows: int


class _Pass(NamedTuple):
    """What is known of the batch that is run: its classes, where it holds data, its rows, and what layers gave."""

    labels: Tensor | None
    valid: Valid
    rows: RowsWatch | None
    seen: dict[str, list[_Seen]]


class Measurement:
    """Statistics of the chosen layers of a network, and how they compare with another measurement of the same batches.

    A layer whose activations can't be measured is left out. One that gets other rows of a batch than in the other
    network is measured, and not compared row by row. Both are named in a warning.

    Args:
        model: The network.
        layers: Names of its modules.
        reference: Measurement of the dense network, made with ``comparable=True`` and one batch ahead of this one.
        comparable: Keep each batch's outputs, pooled over positions, so that another measurement can be compared.
        metrics: What the report shall tell; nothing else is computed.

    Attributes:
        gathered: The statistics.
        other_channels: Layers that are left out, since they have other channels than in the reference.
        unpaired: The layers that get other rows than in the reference.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Collection[str],
        *,
        reference: Measurement | None = None,
        comparable: bool = False,
        metrics: Collection[str] = METRICS,
    ) -> None:
        self.model = model
        self.layers = list(layers)
        self._chosen = frozenset(layers)
        self.reference = reference
        self.comparable = comparable
        self._device = exact_device(next(model.parameters(), torch.zeros(0)))
        modules = {name: model.get_submodule(name) for name in layers}
        self._dims = {name: channel_dim(module) for name, module in modules.items()}
        self._time_first = {name for name, module in modules.items() if is_time_first(module)}
        self._kinds = gathered_for(metrics)
        self._pairs = (comparable or reference is not None) and not self._kinds.isdisjoint(_PAIRED)
        self._pass: _Pass | None = None
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self.batches = 0
        self.gathered = Gathering(self._device)
        self.seen: dict[int, dict[str, list[_Seen]]] = {}
        self.rectifiers = RectifierStates(self.model)
        self.other_channels: dict[str, str] = {}
        self.unpaired: dict[str, None] = {}

    def keep(self, layers: Collection[str]) -> None:
        """Forget all but these layers, and pass over the others from now on."""
        self.layers = list(layers)
        self._chosen = frozenset(layers)
        self.gathered.keep(layers)
        for found in (self.other_channels, self.unpaired):
            for name in [name for name in found if name not in layers]:
                del found[name]

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen to the layers during the block; what they put out within a `batch` counts."""
        with listening(self.model, self.layers, self._take_in):
            yield

    @contextmanager
    def batch(self, labels: Tensor | None = None, valid: Valid | None = None) -> Iterator[None]:
        """Take in what the layers put out during the block, which runs the model on one batch.

        Args:
            labels: The classes of the batch's samples, if they are known.
            valid: Which positions of the batch hold data.
        """
        rows = RowsWatch(self.model) if self._pairs else None
        current = _Pass(labels if "classes" in self._kinds else None, valid or Valid(), rows, {})
        with ExitStack() as stack:
            if "rectifiers" in self._kinds:
                stack.enter_context(self.rectifiers.counting(self.model, valid))
            if rows is not None:
                stack.enter_context(rows)
            self._pass = current
            stack.callback(self._passed)
            yield
        if self._pairs and self.reference is not None:
            self._compare(current.seen, self.reference.seen[self.batches])
        if self._pairs and self.comparable:
            self.seen[self.batches] = current.seen
        self.batches += 1

    def _passed(self) -> None:
        self._pass = None

    def _take_in(self, name: str, output: Tensor) -> None:
        """Take in one call of a layer."""
        current = self._pass
        if current is None or name not in self._chosen or name in self.gathered.left_out:
            return
        number = 0 if current.rows is None else current.rows.of(output)
        with Unwatched(), leaving_out(self.gathered.left_out, name):
            pooled = self._read(name, output, current)
            if pooled is not None and current.rows is not None:
                current.seen.setdefault(name, []).append(_Seen(pooled, number))

    def _read(self, name: str, output: Tensor, current: _Pass) -> Tensor | None:
        """Gather what one call of a layer tells; returns its outputs, pooled over positions, if they are wanted."""
        if name in self._time_first and output.ndim == 3:
            output = output.transpose(0, 1)
        values, held = current.valid.samples_first(by_channel(output, self._dims[name]))
        wanted = {"signs": "signs" in self._kinds, "pooled": self._pairs or current.labels is not None}
        found = read(values, **wanted) if held is None else read_valid(values, held, **wanted)
        channels = values.shape[1]
        self.gathered.take_in("moments", name, channels, found.moments)
        if found.signs is not None:
            self.gathered.take_in("signs", name, channels, found.signs)
        if "histogram" in self._kinds:
            self.gathered.take_in("histogram", name, channels, value_counts(values, held))
        labels, pooled = current.labels, found.pooled
        # a layer may see samples cut into windows
        if labels is not None and pooled is not None and len(labels) == len(pooled):
            self.gathered.take_in("classes", name, channels, pooled, labels)
        return pooled

    def _compare(self, seen: dict[str, list[_Seen]], expected: dict[str, list[_Seen]]) -> None:
        left_out = self.gathered.left_out
        for name in (name for name in seen if name in expected):
            pairs = list(zip(seen[name], expected[name], strict=False))
            for call, dense in pairs:
                if dense.pooled.shape[1] != call.pooled.shape[1]:
                    left_out[name] = self.other_channels[name] = (
                        f"puts out {tuple(call.pooled.shape)} (samples, channels), {tuple(dense.pooled.shape)} in the "
                        "reference"
                    )
            if name in left_out or (self.reference is not None and name in self.reference.gathered.left_out):
                continue
            same = all(call.rows == dense.rows and len(call.pooled) == len(dense.pooled) for call, dense in pairs)
            if not same or len(seen[name]) != len(expected[name]):
                self.unpaired[name] = None
            for call, dense in [] if name in self.unpaired else pairs:
                for kind in self._kinds.intersection(_PAIRED):
                    both = call.pooled, dense.pooled.to(call.pooled.device)
                    self.gathered.take_in(kind, name, call.pooled.shape[1], *both)

    def report(self, told: set[str] | None = None) -> SignalReport:
        """The statistics of every layer that was reached, in the order in which it was.

        Where processes run together, they cover the batches of all; each must call this, batches or not.

        Args:
            told: Layers that were named in a warning before; those that are named now are added.

        Raises:
            NothingToMeasureError: If none was.
        """
        batches = sum(gather(self.batches))
        found = self.everywhere(self._kinds)
        dense = self.reference.everywhere(("moments",)) if self.reference is not None else {}
        rectifiers = self.rectifiers.rows() if "rectifiers" in self._kinds else ()
        self._warn(set() if told is None else told)
        if not found:
            raise NothingToMeasureError(
                f"the batches reached none of the layers {self.layers} that can be measured: look at forward and layers"
            )
        rows = [row_of(name, kinds, dense.get(name, {}).get("moments")) for name, kinds in found.items()]
        histograms = {name: kinds["histogram"] for name, kinds in found.items() if "histogram" in kinds}
        return SignalReport(tuple(rows), batches, rectifiers, histograms)

    def _warn(self, told: set[str]) -> None:
        left_out = self.rectifiers.left_out | self.gathered.left_out
        warn_of_left_out({name: reason for name, reason in left_out.items() if name not in told})
        if unpaired := [name for name in self.unpaired if name not in told | left_out.keys()]:
            warn(
                f"{', '.join(map(repr, unpaired))} got other rows of the batches than in the dense network, as the "
                "data choose them: measured without comparing row by row, so that cosine and CKA are None there"
            )
        told.update(left_out, unpaired)

    def everywhere(self, kinds: Container[str]) -> dict[str, dict[str, Any]]:
        """What the batches of all processes, which all must call this, told of each layer, by kind."""
        self.gathered.work_off()
        merge_reasons(self.gathered.left_out)
        self.unpaired = dict.fromkeys(name for of_rank in gather(list(self.unpaired)) for name in of_rank)
        return self.gathered.values(kinds, {(kind, name) for kind in _PAIRED for name in self.unpaired})
