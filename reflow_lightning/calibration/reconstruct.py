"""Least squares for the weights that survive: each layer shall put out what the dense network's does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from reflow_lightning.calibration.batchnorm import alone
from reflow_lightning.calibration.changing import changing, check_reference, not_reached
from reflow_lightning.calibration.enough import sufficient
from reflow_lightning.calibration.least_squares import Normals, ridge
from reflow_lightning.calibration.matching import Collector
from reflow_lightning.calibration.repair import Calibration
from reflow_lightning.layers.affine import AffineMap, Stage
from reflow_lightning.layers.find import find_layers
from reflow_lightning.layers.layer import Layer
from reflow_lightning.layers.norms import batchnorm_layers
from reflow_lightning.layers.order import forward_order
from reflow_lightning.running.compat.torch import BatchNorm, tree_map_only
from reflow_lightning.running.exact import exact_device
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.hooks import Call, in_type, watching
from reflow_lightning.running.processes import together, warn
from reflow_lightning.running.snapshot import Snapshot, TrainingFlags

DONE = "least squares"


@dataclass(frozen=True)
class Reconstruct:
    """Fit the weights that are not zero, layer by layer in forward order, to what the dense network's layer puts out.

    Given the inputs x that the pruned network has by then, and the outputs y of the dense network's layer, minimises
    ``sum |y - W x - b|^2 + penalty |W - W_old|^2`` over W and b in closed form, where zeros stay zero; the penalty is
    ``ridge`` times the mean square of the inputs. In the family of OBC (arXiv 2208.11580) and AdaPrune
    (arXiv 2102.08124). It reads the batches once for each layer. Convolutions, linear layers, attention projections,
    and the matrices of recurrent cells. A BatchNorm layer that gets the output of a layer as it is gets its statistics,
    which follow from the same sums, so that the next layers are fitted to what they will see.

    Args:
        ridge: Strength of the ridge towards the old weights.

    Example:
        >>> import copy
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> dense, batch = copy.deepcopy(model), torch.randn(64, 4)
        >>> with torch.no_grad():
        ...     _ = model[2].weight[:, 1:].mul_(0.5)  # nothing is zero, so all can come back
        >>> Reconstruct(ridge=1e-9)(model, [batch], lambda network, x: network(x), dense).repaired
        ('0', '2')
        >>> torch.allclose(model(batch), dense(batch), atol=1e-3)
        True
    """

    writes_weights: ClassVar[bool] = True
    restores_itself: ClassVar[bool] = True
    ridge: float = 0.01

    def __post_init__(self) -> None:
        if (
            isinstance(self.ridge, bool)
            or not isinstance(self.ridge, (int, float))
            or not 0 < self.ridge < float("inf")
        ):
            raise ValueError(f"ridge={self.ridge!r} must be a positive number, such as 0.01")

    def needs_reference(self, model: nn.Module) -> bool:
        """Yes."""
        return True

    def __call__(
        self, model: nn.Module, batches: Iterable[Any], forward: Forward, reference: nn.Module | None, /
    ) -> Calibration:
        """Repair the model."""
        known, skipped = find_layers(model)
        layers = {name: layer for name, layer in known.items() if layer.stages}
        unsolved = [name for name in known.keys() - layers.keys() if known[name].weights]
        skipped |= dict.fromkeys(sorted(unsolved), "its inputs are not laid out")
        dense = check_reference(model, layers, reference, DONE)
        with changing(model, [*layers, *batchnorm_layers(model)], dense, DONE) as change:
            enough = sufficient(batches, lambda batch: _moments(dense, layers, batch, forward))
            change.repaired = reconstruct(model, layers, enough, forward, dense, self.ridge)
            return change.calibration(batches, layers, skipped)


def reconstruct(
    model: nn.Module,
    layers: Mapping[str, Layer],
    batches: Iterable[Any],
    forward: Forward,
    reference: nn.Module,
    strength: float,
) -> tuple[str, ...]:
    """Solve for layers in the order in which the forward pass reaches them; see `Reconstruct`.

    Args:
        model: The pruned network.
        layers: Those to change, of `find_layers`.
        batches: Read once for each stage of a layer.
        forward: Runs a network on a batch.
        reference: The dense network.
        strength: Of the ridge.

    Returns:
        Names of the layers that were changed.
    """
    dense_layers = find_layers(reference).known
    order = forward_order(model, batches, forward)
    calls = {name: times for name, times in order.calls.items() if name in layers}
    followers = {name: norm for name, norm in order.followers.items() if norm in batchnorm_layers(model)}
    single = [name for name, layer in layers.items() if layer.dim is not None and len(layer.maps) == 1]
    norms = {name: followers[name] for name in single if name in followers}
    others = [layer for name, layer in batchnorm_layers(model).items() if name not in norms.values()]
    few: dict[str, str] = {}
    for name, times in calls.items():
        for stage in layers[name].stages:
            sums = [_normals(layers[name].maps[index]) for index in stage.maps]
            with together(f"reconstructing '{name}'"):
                for batch in batches:
                    dense = calls_of(reference, name, batch, forward, times)
                    with by_batch(others):  # nobody has given them statistics yet
                        own = dense if stage.dense_inputs else calls_of(model, name, batch, forward, times)
                    if len(dense) != len(own):
                        raise not_reached(name)
                    source = dense_layers[name] if stage.dense_inputs else layers[name]
                    for call, dense_call in zip(own, dense, strict=True):
                        _take_in(sums, stage, source, call, dense_layers[name].outputs(dense_call))
            for index, normals in zip(stage.maps, sums, strict=True):
                normals.merge()
                if not bool((normals.sums[:, 0, 0] > 0).all()):
                    raise ValueError(f"no samples came for layer '{name}': pass batches that can be read several times")
                if not bool(torch.isfinite(normals.sums).all()):
                    raise ValueError(f"layer '{name}' gets or gives NaN or infinite values: look at the batches")
                solve(layers[name].maps[index], normals, strength, free_shift=name in norms)
                if int(normals.sums[0, 0, 0]) < normals.inputs:
                    few[layers[name].maps[index].name] = f"{int(normals.sums[0, 0, 0])} for {normals.inputs} inputs"
            if name in norms:
                _renormalise(model.get_submodule(norms[name]), layers[name].maps[0], sums[0])
    if few:
        named = "; ".join(f"'{name}': {numbers}" for name, numbers in list(few.items())[:3])
        warn(f"fewer samples than inputs in {len(few)} layers ({named}): give more batches, or a stronger ridge")
    return tuple(name for name in calls for name in (name, *([norms[name]] if name in norms else [])))


@contextmanager
def by_batch(layers: Iterable[BatchNorm]) -> Iterator[None]:
    """Have BatchNorm layers normalise by the batch at hand, and forget it."""
    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(alone(layer))
            stack.callback(Snapshot.of_buffers([layer]).restore)
            stack.callback(TrainingFlags([layer]).restore)
            layer.training = True
        yield


class _Seen(BaseException):
    """Ends a forward pass whose rest is of no interest; no handler of the model may stop it."""


def calls_of(model: nn.Module, name: str, batch: Any, forward: Forward, times: int) -> list[Call]:
    """The calls of one layer in a forward pass, which ends with the last of them."""
    calls: list[Call] = []
    dtype = next(iter(model.get_submodule(name).parameters())).dtype

    def take(_: str, call: Call) -> None:
        call = in_type(call, dtype)
        if len(calls) + 1 == times:
            calls.append(call)
            raise _Seen
        calls.append(tree_map_only(Tensor, Tensor.clone, call))  # what follows may write into them

    with watching(model, [name], take), suppress(_Seen):
        forward(model, batch)
    return calls


def by_group(values: Tensor, affine: AffineMap) -> Tensor:
    """Outputs with channels in dimension 1 as (groups, samples, channels of a group)."""
    rows = values.movedim(1, -1).reshape(-1, affine.groups, affine.channels // affine.groups)
    return rows.transpose(0, 1)


def _moments(model: nn.Module, layers: Iterable[str], batch: Any, forward: Forward) -> dict[str, Tensor]:
    """Moments of what the layers put out for a batch, by which it is judged how many batches there must be."""
    dense = Collector(find_layers(model).known, torch.device("cpu"))
    with watching(model, layers, dense.take_in):
        forward(model, batch)
    return dense.latest


def _normals(affine: AffineMap) -> Normals:
    inputs = sum(weight[0].numel() for weight in affine.weights)
    return Normals(affine.groups, inputs, affine.channels // affine.groups, exact_device(affine.weights[0]))


def _take_in(sums: list[Normals], stage: Stage, layer: Layer, call: Call, outputs: list[Tensor]) -> None:
    for index, normals in zip(stage.maps, sums, strict=True):
        wanted = by_group(outputs[index], layer.maps[index])
        start = 0
        for x in layer.inputs(index, call):
            normals.update(x, wanted[:, start : start + x.shape[1]])
            start += x.shape[1]


@torch.no_grad()
def solve(affine: AffineMap, normals: Normals, strength: float, free_shift: bool = False) -> None:
    """Change the weights of a map that are not zero, and its biases, so that it fits best.

    Args:
        affine: The map.
        normals: Its inputs, and what it shall put out.
        strength: Of the ridge.
        free_shift: A shift of the output does not matter, as where a BatchNorm layer takes the mean off.
    """
    weights = affine.matrix().view(affine.groups, -1, normals.inputs)
    sums = normals.compute(centred=affine.can_shift or free_shift)
    old = weights.to(sums.gram)
    products = sums.products - sums.gram @ old.transpose(1, 2)  # with what the old weights leave to explain
    change = torch.stack([ridge(sums.gram[g], products[g], old[g] != 0, strength) for g in range(affine.groups)])
    shift = None
    if affine.can_shift:
        shift = (sums.mean_y - sums.mean_x @ (old + change).transpose(1, 2)).flatten()
        for bias in affine.biases:
            shift = shift - bias.to(shift)
    affine.add(change.flatten(0, 1), shift)


@torch.no_grad()
def _renormalise(norm: nn.Module, affine: AffineMap, normals: Normals) -> None:
    """Give the BatchNorm layer after a map the statistics of what the map puts out now: the next layers see them."""
    sums = normals.compute(centred=True)
    weights = affine.matrix().view(affine.groups, -1, normals.inputs).to(sums.gram)
    mean = (sums.mean_x @ weights.transpose(1, 2)).flatten()
    for bias in affine.biases:
        mean = mean + bias.to(mean)
    variance = ((weights @ sums.gram) * weights).sum(2) / normals.sums[:, 0, :1].clamp(min=1.0)
    norm.get_buffer("running_mean").copy_(mean)
    norm.get_buffer("running_var").copy_(variance.flatten().clamp(min=0.0))
