"""What measuring the signal costs beside the forward passes that it needs in any case."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from paired import by_turns
from torch import Tensor, nn
from torchvision.models import mobilenet_v2, resnet18, resnet50

from reflow_lightning import calibrate, measure_signal, prune
from reflow_lightning.running.hooks import watching
from speed_cases import floors
from speed_cases.row import row

TITLE = "Measuring the signal"
TURNS = 3
COMPARED = ("variance", "variance_ratio")
_READ = 2  # passes over the outputs: the sum, the sum of squares
NETWORKS: dict[str, tuple[Callable[..., nn.Module], int, int]] = {
    "ResNet-18, 4 x 16 at 96 px": (resnet18, 16, 96),
    "ResNet-50, 4 x 4 at 128 px": (resnet50, 4, 128),
    "MobileNet-V2, 4 x 8 at 96 px": (mobilenet_v2, 8, 96),
}
WHY = "each call of a layer takes a few dozen small kernels beside the passes over its output, in ResNet-18 some 0.4 ms"


def composer(model: nn.Module, batches: Sequence[Tensor]) -> list[float]:
    """What Composer's ActivationMonitor does at each module: norm, mean, standard deviation, each sent to Python."""
    found: list[float] = []

    def take_in(name: str, call: Any) -> None:
        if isinstance(call.output, Tensor):
            found.extend(x.item() for x in (call.output.norm(), call.output.mean(), call.output.std()))

    with watching(model, [name for name, module in model.named_modules() if not list(module.children())], take_in):
        bare(model, batches)
    return found


@torch.no_grad()
def bare(model: nn.Module, batches: Sequence[Tensor]) -> None:
    """The forward passes alone."""
    for batch in batches:
        model(batch)


def outputs(model: nn.Module, batch: Tensor) -> int:
    """The values that the measured layers put out for a batch."""
    sizes: list[int] = []
    names = [name for name, module in model.named_modules() if isinstance(module, (nn.BatchNorm2d, nn.Linear))]
    with watching(model, names, lambda _, call: sizes.append(call.output.numel())):
        bare(model, [batch])
    return sum(sizes)


def rows() -> list[dict[str, Any]]:
    """A row for each network and choice of metrics."""
    return [line for name, (make, samples, pixels) in NETWORKS.items() for line in _of(name, make, samples, pixels)]


def _of(name: str, make: Callable[..., nn.Module], samples: int, pixels: int) -> list[dict[str, Any]]:
    model = make(num_classes=10).eval()
    labelled = [(torch.randn(samples, 3, pixels, pixels), torch.randint(10, (samples,))) for _ in range(4)]
    batches = [x for x, _ in labelled]
    calibrate(model, batches, repair="batchnorm", max_batches=4, progress=False)
    dense = copy.deepcopy(model)
    prune(model, 0.5)

    def measure(**how: Any) -> Callable[[], object]:
        return lambda: measure_signal(model, labelled, max_batches=4, progress=False, **how)

    functions: dict[str, Callable[[], object]] = {
        "bare": lambda: bare(model, batches),
        "two bare": lambda: (bare(model, batches), bare(dense, batches)),
        "composer": lambda: composer(model, batches),
        "variance": measure(metrics=("variance",)),
        "all": measure(),
        "variance, reference": measure(metrics=COMPARED, reference=dense),
        "all, reference": measure(reference=dense),
    }
    times = by_turns(functions, TURNS)
    read = len(batches) * _READ * 4 * outputs(model, batches[0]) / floors.bytes_per_second()
    lines = []
    for what, target in (("variance", 1.1), ("all", 1.3), ("variance, reference", 2.1), ("all, reference", 2.5)):
        ratio = times.ratio(what, "bare")
        lines.append(
            row(
                f"{name}: {what}",
                f"{times.median(what):.2f} s",
                times.spread(what, "bare"),
                f"bare passes {times.median('bare'):.2f} s, of both networks {times.median('two bare'):.2f} s, like "
                f"Composer's monitor {times.median('composer'):.2f} s",
                f"{read * (2 if 'reference' in what else 1):.3f} s beside the passes",
                f"<= {target}",
                ratio <= target,
                "" if ratio <= target else f"{ratio / target:.2f} x the target: {WHY}",
            )
        )
    return lines
