"""The equations of a layer, gathered over all batches and processes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import nn

from reflow_lightning.calibration.layer_calls import Arrival
from reflow_lightning.calibration.least_squares import Normals
from reflow_lightning.calibration.lockstep import LockStep, RunAnewError
from reflow_lightning.calibration.solving import normals_of, take_in
from reflow_lightning.layers.affine import Stage
from reflow_lightning.layers.find import find_layers
from reflow_lightning.layers.layer import Layer
from reflow_lightning.running.processes import gather, together, warn
from reflow_lightning.running.units import held

OTHER_ROWS = "other rows of the batches than in the dense network, as the data choose them"


def equations(
    under_way: LockStep, reference: nn.Module, name: str, layer: Layer, stage: Stage, anew: bool
) -> list[Normals] | str:
    """The sums of the maps of a stage, over all processes, or why there are none."""
    dense_layer = find_layers(reference).known[name]
    with together(f"reconstructing '{name}'"):
        try:
            found = _gathered(under_way.arrivals(name, anew), layer, dense_layer, stage)
        except RunAnewError:
            warn(
                f"{type(reference).__name__} keeps a state of its own from one layer to the next, so that the batches "
                "run anew for each layer: repair='reconstruct' takes longer there"
            )
            found = _gathered(under_way.arrivals(name, anew), layer, dense_layer, stage)
    if not sum(gather(found.calls)):
        raise ValueError(f"no samples came for layer '{name}': pass batches that can be read several times")
    if not all(gather(found.paired)):
        return OTHER_ROWS
    for normals in found.sums:
        normals.merge()
        if not bool(torch.isfinite(normals.sums).all()):
            raise ValueError(f"layer '{name}' gets or gives NaN or infinite values: look at the batches")
    reached = all(bool((normals.sums[:, 0, 0] > 0).all()) for normals in found.sums)
    return found.sums if reached else "no sample reached it"


class _Gathered(NamedTuple):
    sums: list[Normals]
    calls: int
    paired: bool


def _gathered(arrivals: Iterable[Arrival], layer: Layer, dense_layer: Layer, stage: Stage) -> _Gathered:
    """The sums of this process; they end with the first batch whose rows are others than in the dense network."""
    sums, seen, paired = [normals_of(layer.maps[index]) for index in stage.maps], 0, True
    source = dense_layer if stage.dense_inputs else layer
    for own, dense, same, valid in arrivals:
        given = dense if stage.dense_inputs else own
        seen += len(dense) + len(own)
        paired = paired and (same or stage.dense_inputs)
        for call, dense_call in zip(given, dense, strict=True) if paired else ():
            with held(dense_layer.module, source.module):
                outputs = dense_layer.outputs(valid.call(dense_call, dense_layer))
                take_in(sums, stage, source, valid.call(call, source), outputs, valid)
    return _Gathered(sums, seen, paired)
