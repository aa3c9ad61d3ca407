"""Least squares for the weights that survive: each layer shall put out what the dense network's does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import nn

from reflow_lightning.calibration.batchnorm import not_calibrated
from reflow_lightning.calibration.changing import changing, check_reference
from reflow_lightning.calibration.collecting import moments_of
from reflow_lightning.calibration.enough import sufficient
from reflow_lightning.calibration.equations import OTHER_ROWS, equations
from reflow_lightning.calibration.lockstep import LockStep
from reflow_lightning.calibration.matching import match_moments
from reflow_lightning.calibration.moments import DONE as MATCHED
from reflow_lightning.calibration.repair import Calibration
from reflow_lightning.calibration.repairable import layers_to_repair, norms_to_repair
from reflow_lightning.calibration.solving import Chooser, not_zero, renormalise, solve
from reflow_lightning.calibration.stale import warn_if_stale
from reflow_lightning.layers.find import check_maps
from reflow_lightning.layers.layer import Layer
from reflow_lightning.layers.order import forward_order
from reflow_lightning.layers.padding import Padding
from reflow_lightning.running.batches import device_of, progress_bar, without_bar
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.free import free_bytes
from reflow_lightning.running.live import LiveTensors
from reflow_lightning.running.names import few_reasons
from reflow_lightning.running.processes import warn
from reflow_lightning.running.units import held

DONE = "least squares"
_MOST = 128  # batches under way; each has two threads


@dataclass(frozen=True)
class Reconstruct:
    """Fit the weights that are not zero, layer by layer in forward order, to what the dense network's layer puts out.

    Given the inputs x that the pruned network has by then, and the outputs y of the dense network's layer, minimises
    ``sum |y - W x - b|^2 + penalty |W - W_old|^2`` over W and b in closed form, where zeros stay zero; the penalty is
    ``ridge`` times the mean square of the inputs. It belongs to the family of OBC (arXiv 2208.11580) and AdaPrune
    (arXiv 2102.08124). SparseGPT (arXiv 2301.00774) goes through the columns of a weight once, and lets those to the
    right make up for each weight that goes: at a given mask that approximates this minimum, which here is exact for
    each row. Fitted are convolutions, linear layers, attention projections, and the matrices of recurrent cells. A
    layer that gets other rows of a batch than in the dense network, such as an expert of several, has its moments
    matched instead. Padding does not count where layers are told of it. A BatchNorm layer that gets the output of a
    layer as it is gets its statistics, which follow from the same sums, so that the next layers are fitted to what they
    will see.

    All batches run at the same time and wait for each other at each layer, so that they run once through each network.
    What they hold meanwhile is bounded: those that do not fit run anew for each layer, and so do all in a network that
    keeps a state of its own from one layer to the next.

    Args:
        ridge: Strength of the ridge towards the old weights.
        held_bytes: Batches that wait may take so much memory; ``None`` stands for half of what is free.

    Example:
        >>> import copy, torch
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
    leaves_undo_to_caller: ClassVar[bool] = True
    unit_by_unit: ClassVar[bool] = True
    ridge: float = 0.01
    held_bytes: int | None = None

    def __post_init__(self) -> None:
        if (
            isinstance(self.ridge, bool)
            or not isinstance(self.ridge, (int, float))
            or not 0 < self.ridge < float("inf")
        ):
            raise ValueError(f"ridge={self.ridge!r} must be a positive number, such as 0.01")
        if self.held_bytes is not None and (not isinstance(self.held_bytes, int) or self.held_bytes < 0):
            raise ValueError(
                f"held_bytes={self.held_bytes!r} must be a number of bytes, or None for half of what is free"
            )

    def needs_reference(self, model: nn.Module) -> bool:
        """Whether the dense network is needed: always, since its outputs are fitted."""
        return True

    def __call__(
        self, model: nn.Module, batches: Iterable[Any], forward: Forward, reference: nn.Module | None, /
    ) -> Calibration:
        """Repair the model."""
        return fit(model, batches, forward, reference, self, DONE, lambda _: not_zero)


def fit(
    model: nn.Module,
    batches: Iterable[Any],
    forward: Forward,
    reference: nn.Module | None,
    how: Reconstruct,
    done: str,
    chooser: Callable[[nn.Module], Chooser],
) -> Calibration:
    """Repair a model; see `Reconstruct`, whose arguments are ``how``.

    Args:
        model: The pruned network.
        batches: See `Repair`.
        forward: See `Repair`.
        reference: The dense network.
        how: The arguments.
        done: What is done to the layers, in words.
        chooser: Says which weights stay, given the dense network.
    """
    known, skipped = layers_to_repair(model)
    layers = {name: layer for name, layer in known.items() if layer.stages and _numbers(layer)}
    unsolved = [name for name in known.keys() - layers.keys() if known[name].weights]
    for name in sorted(unsolved):
        kind = type(model.get_submodule(name)).__name__
        none = f"there are no least squares for {kind}; a BatchNorm behind it is re-estimated all the same"
        skipped[name] = "its weights hold no number" if known[name].stages else none
    skipped |= not_calibrated(model)
    dense = check_reference(model, layers, reference, done)
    with changing(model, [*layers, *norms_to_repair(model)], dense, done) as change:
        enough = sufficient(batches, lambda batch: moments_of(dense, layers, batch, forward))
        warn_if_stale(dense, enough, forward, done)
        with without_bar(batches) as shown:
            solved = reconstruct(
                model, layers, enough, forward, dense, how.ridge, how.held_bytes, chooser(dense), done if shown else ""
            )
        change.repaired, change.otherwise = solved.repaired, dict.fromkeys(solved.matched, MATCHED)
        return change.calibration(batches, layers, skipped)


def _numbers(layer: Layer) -> int:
    return sum(part.numel() for one in layer.maps for part in one.weights)


class Solved(NamedTuple):
    """Names of the layers that were changed, and of those among them whose moments were matched instead."""

    repaired: tuple[str, ...]
    matched: tuple[str, ...]


def reconstruct(
    model: nn.Module,
    layers: Mapping[str, Layer],
    batches: Iterable[Any],
    forward: Forward,
    reference: nn.Module,
    strength: float,
    held_bytes: int | None = None,
    choose: Chooser = not_zero,
    task: str = "",
) -> Solved:
    """Solve for layers in the order in which the forward pass reaches them; see `Reconstruct`.

    Args:
        model: The pruned network.
        layers: Those to change, of `find_layers`.
        batches: Read once, as long as what is held of them fits.
        forward: Runs a network on a batch.
        reference: The dense network.
        strength: Of the ridge.
        held_bytes: See `Reconstruct`.
        choose: Which weights stay.
        task: What is being done, for a bar over the layers; empty for none.

    Returns:
        What was done.
    """
    watched = _Measured(forward)
    order = forward_order(model, batches, watched, layers)
    calls = {name: times for name, times in order.calls.items() if name in layers}
    known = norms_to_repair(model)
    single = [name for name, layer in layers.items() if layer.dim is not None and len(layer.maps) == 1]
    norms = {name: norm for name, norm in order.followers.items() if norm in known and name in single}
    others = {norm: layer for norm, layer in known.items() if norm not in norms.values()}
    allowed = free_bytes(device_of(model)) // 2 if held_bytes is None else held_bytes
    padding = Padding(model, told=order.padded)
    under_way = LockStep(model, reference, layers, calls, batches, forward, padding, watched.batches_within(allowed))
    scarce: dict[str, str] = {}
    left: dict[str, str] = {}
    with under_way:
        under_way.normalise_by_batch(others.values())  # those that still have their old statistics
        for name in progress_bar(calls, bool(task), desc=task, unit="layer"):
            for number, stage in enumerate(layers[name].stages):
                sums = equations(under_way, reference, name, layers[name], stage, anew=number > 0)
                if isinstance(sums, str):
                    left[name] = sums
                    break
                with held(layers[name].module):
                    check_maps(layers[name])
                    for affine, normals in zip((layers[name].maps[i] for i in stage.maps), sums, strict=True):
                        solve(affine, normals, strength, name in norms, choose)
                        if (samples := int(normals.sums[0, 0, 0])) < normals.inputs:
                            scarce[affine.name] = f"{samples} for {normals.inputs} inputs"
                    if name in norms:
                        renormalise(model.get_submodule(norms[name]), layers[name].maps[0], sums[0])
            if name in left:
                done = match_moments(model, {name: layers[name]}, batches, forward, reference)
                left[name] = MATCHED if done else left[name]
                if name in norms:
                    under_way.normalise_by_batch([known[norms.pop(name)]])
            under_way.done(name)
    if under_way.beyond:
        warn(
            f"{under_way.beyond} of the batches did not fit into held_bytes={allowed} and ran anew for each layer: "
            "give more memory, or fewer or smaller batches"
        )
    if scarce:
        warn(f"fewer samples than inputs ({few_reasons(scarce)}): give more batches, or a stronger ridge")
    if matched := [name for name, what in left.items() if what == MATCHED]:
        warn(f"{', '.join(map(repr, matched))} got {OTHER_ROWS}: {MATCHED}, since no row can be fitted to another")
    solved = [name for name in calls if name not in left or name in matched]
    return Solved(tuple(name for n in solved for name in (n, *([norms[n]] if n in norms else []))), tuple(matched))


class _Measured:
    """A forward pass whose memory is measured."""

    def __init__(self, forward: Forward) -> None:
        self._forward, self._peak = forward, 0

    def __call__(self, model: nn.Module, batch: Any) -> Any:
        with LiveTensors() as live:
            output = self._forward(model, batch)
        self._peak = max(self._peak, live.peak)
        return output

    def batches_within(self, held_bytes: int) -> int:
        """How many batches may be under way in two networks; one holds no more than the peak of a whole pass."""
        return min(_MOST, held_bytes // max(1, 2 * self._peak))
