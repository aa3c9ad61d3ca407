"""ASR (arXiv 2605.21426) beside REFLOW: equal masks, equal calibration batches, running averages and exact statistics.

    REFLOW_DATA=... python benchmarks/asr.py [IMAGES]

Tests on the first IMAGES images of CIFAR-10, 2000 unless said otherwise, and on all 360 of digits. Needs what
``cifar10.py`` needs; takes about 18 minutes on one core. Writes ``docs/asr.md`` and ``docs/asr.png``.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from asr_cases import SEED, Case, cifar10, digits
from asr_repair import Rescaling, layer_factors
from pictures import draw
from tables import Row, publish
from torch import Tensor, nn

from reflow_lightning import calibrate, prune
from reflow_lightning.calibration import Snapshot
from reflow_lightning.calibration.batchnorm import Population, population_statistics, write_statistics
from reflow_lightning.layers.statistics import batchnorm_layers
from reflow_lightning.running.forward import default_forward
from reflow_lightning.signal.statistics import MergedMoments

MASKS = ("0.7", "0.8", "0.9", "0.95", "2:4")
NUMBERS = (5, 10, 20, 50)  # of batches
PAPERS_NUMBER = 20
FEWEST = 5
FACTOR_IMAGES = 64
MOMENTUM = 0.1
REPAIRS = {"LW": Rescaling(layer_factors, correct_means=False), "ASR": Rescaling()}

Moments = dict[str, Tensor]
"""Moments of every BatchNorm layer's input in one batch, of shape (3, C): count, mean, squared deviations."""


@dataclass(frozen=True)
class Cell:
    """One mask and one number of batches.

    Attributes:
        accuracies: By estimator and by what came before it: nothing, LW or ASR.
        moved: Standard deviation of the logits' difference from those without rescaling, over that of these.
        auto: Accuracy of ``repair="auto"``, where it was measured.
        reconstruct: Accuracy of ``repair="reconstruct"`` with the first `FEWEST` batches, whatever the number is.
    """

    network: str
    mask: str
    number: int
    dense: float
    pruned: float
    accuracies: dict[str, dict[str, float]]
    moved: dict[str, dict[str, float]]
    auto: float | None
    reconstruct: float


def batch_moments(model: nn.Module, batches: list[Tensor]) -> list[Moments]:
    """What all estimators need, of one pass: each layer normalises by the batch at hand, not by stored statistics."""
    populations = (population_statistics(model, [batch], default_forward) for batch in batches)
    return [{name: found.state for name, found in population.layers.items()} for population in populations]


def exact(model: nn.Module, moments: list[Moments]) -> None:
    """Ours: as ``calibrate(model, batches, repair="batchnorm")`` does."""
    layers = {name: MergedMoments(state.shape[1]) for name, state in moments[0].items()}
    for batch in moments:
        for name, state in batch.items():
            layers[name].update(state)
    write_statistics(model, Population(layers, len(moments)))


def running_average(model: nn.Module, moments: list[Moments]) -> None:
    """As BatchNorm itself does in training, from the statistics that it has."""
    for name, layer in batchnorm_layers(model).items():
        for batch in moments:
            count, mean, squares = batch[name]
            for stored, new in (("running_mean", mean), ("running_var", squares / (count - 1))):
                value = layer.get_buffer(stored)
                value.lerp_(new.to(value), MOMENTUM)


def reset_running_average(model: nn.Module, moments: list[Moments]) -> None:
    """The same from mean 0 and variance 1, as the paper has it."""
    for layer in batchnorm_layers(model).values():
        layer.reset_running_stats()
    running_average(model, moments)


ESTIMATORS: dict[str, Callable[[nn.Module, list[Moments]], None]] = {
    "EMA, reset": reset_running_average,
    "EMA, dense kept": running_average,
    "exact": exact,
}


@torch.inference_mode()
def logits(model: nn.Module, case: Case) -> Tensor:
    """Of all test images."""
    return torch.cat([model.eval()(images) for images, _ in case.test])


def accuracy(found: Tensor, case: Case) -> float:
    """Share of the test images whose class has the largest logit."""
    return float((found.argmax(1) == torch.cat([classes for _, classes in case.test])).double().mean())


def pruned_by(mask: str, dense: nn.Module) -> nn.Module:
    """A pruned copy: by a global ranking, or by 2:4 in all layers but the first, whose channels 4 does not divide."""
    net = copy.deepcopy(dense)
    if mask == "2:4":
        first = next(name for name, module in net.named_modules() if isinstance(module, nn.Conv2d))
        prune(net, 0.5, pattern=mask, exclude=[f"{first}.weight"])
    else:
        prune(net, float(mask))
    return net


def measure(case: Case) -> Iterator[Cell]:
    """A cell for each mask and number of batches."""
    dense = accuracy(logits(case.dense, case), case)
    for mask in MASKS:
        yield from measure_mask(case, mask, dense)


def measure_mask(case: Case, mask: str, dense: float) -> Iterator[Cell]:
    """A cell for each number of batches; all estimators read them off one pass."""
    pruned = pruned_by(mask, case.dense)
    nets = {"BN": pruned}
    for name, repair in REPAIRS.items():
        nets[name] = copy.deepcopy(pruned)
        few = case.batches[0][:FACTOR_IMAGES]
        calibrate(nets[name], [few], repair=repair, reference=case.dense, max_batches=1)
    moments = {name: batch_moments(net, case.batches) for name, net in nets.items()}
    before = accuracy(logits(pruned, case), case)
    reconstruct = repaired(pruned, case, "reconstruct", FEWEST)
    for number in case.numbers:
        accuracies: dict[str, dict[str, float]] = {}
        moved: dict[str, dict[str, float]] = {}
        for estimator, write in ESTIMATORS.items():
            found: dict[str, Tensor] = {}
            for name, net in nets.items():
                stored = Snapshot.of_buffers(batchnorm_layers(net).values())
                write(net, moments[name][:number])
                found[name] = logits(net, case)
                stored.restore()
            accuracies[estimator] = {name: accuracy(each, case) for name, each in found.items()}
            moved[estimator] = {name: float((found[name] - found["BN"]).std() / found["BN"].std()) for name in REPAIRS}
        auto = repaired(pruned, case, "auto", number) if number == PAPERS_NUMBER else None
        yield Cell(case.name, mask, number, dense, before, accuracies, moved, auto, reconstruct)


def repaired(pruned: nn.Module, case: Case, repair: str, number: int) -> float:
    """Accuracy after a repair of ours that knows the dense network, as ASR does."""
    net = copy.deepcopy(pruned)
    calibrate(net, case.batches[:number], repair=repair, reference=case.dense, max_batches=number)
    return accuracy(logits(net, case), case)


def row(cell: Cell) -> Row:
    """A line of the table: without rescaling / after LW / after ASR."""

    def percent(shares: dict[str, float]) -> str:
        return " / ".join(f"{100 * share:.2f}" for share in shares.values())

    def ratios(found: dict[str, float]) -> str:
        return " / ".join(f"{ratio:.2f}" if ratio > 0.01 else f"{ratio:.6f}" for ratio in found.values())

    return {
        "network": cell.network,
        "sparsity": cell.mask,
        "b": cell.number,
        "dense": cell.dense,
        "pruned": cell.pruned,
        **{f"{estimator}: BN / LW / ASR": percent(cell.accuracies[estimator]) for estimator in ESTIMATORS},
        "ours, auto": cell.auto,
        "ours, reconstruct": cell.reconstruct,
        **{f"moved, {estimator}: LW / ASR": ratios(cell.moved[estimator]) for estimator in ESTIMATORS},
    }


def main(test_images: int) -> None:
    """Measure every cell and write the page."""
    cases = (
        cifar10("resnet20", "resnet20-12fca82f.th", NUMBERS, test_images),
        cifar10("resnet32", "resnet32-d509ac18.th", (PAPERS_NUMBER,), test_images),
        digits(NUMBERS),
    )
    cells = []
    for case in cases:
        for cell in measure(case):
            cells.append(cell)
            print(row(cell), flush=True)
    publish("asr", [row(cell) for cell in cells], SEED, "docs/asr.md")
    draw("asr")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
