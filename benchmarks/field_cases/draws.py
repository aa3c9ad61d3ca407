"""Networks that draw get the same random numbers wherever they are compared, and leave no trace of it."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from field_cases.trial import Kind
from reflow_lightning import Reflow, calibrate, measure_signal


class Noisy(nn.Module):
    def __init__(self, draw: Callable[[Any, Tensor], Tensor], generator: Any = None) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.enc, self.dec = nn.Linear(16, 8), nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16))
        self.draw, self.held = draw, {"generator": generator}

    def forward(self, x: Tensor) -> Any:
        return self.dec(self.enc(x) + self.draw(self.held["generator"], x[:, :8]))


def _of_python(_: Any, x: Tensor) -> Tensor:
    return torch.tensor([[random.gauss(0, 1) for _ in row] for row in x])


DRAWS: dict[str, Callable[[], Noisy]] = {
    "randn": lambda: Noisy(lambda _, x: torch.randn_like(x)),
    "dropout": lambda: Noisy(lambda _, x: nn.functional.dropout(x, 0.5)),
    "numpy": lambda: Noisy(lambda _, x: torch.from_numpy(np.random.randn(*x.shape)).float()),
    "python": lambda: Noisy(_of_python),
    "a generator of torch": lambda: Noisy(
        lambda g, x: torch.randn(x.shape, generator=g), torch.Generator().manual_seed(1)
    ),
    "a generator of numpy": lambda: Noisy(
        lambda g, x: torch.from_numpy(g.standard_normal(x.shape)).float(), np.random.default_rng(1)
    ),
    "a RandomState": lambda: Noisy(
        lambda g, x: torch.from_numpy(g.randn(*x.shape)).float(),
        np.random.RandomState(1),
    ),
    "a random.Random": lambda: Noisy(lambda g, x: torch.full_like(x, g.gauss(0, 1)), random.Random(1)),
}


def vectors() -> list[Tensor]:
    draws = torch.Generator().manual_seed(2)
    return [torch.randn(64, 16, generator=draws) for _ in range(4)]


def equal_networks(make: Callable[[], Noisy]) -> str:
    model, lost = make(), []
    for order in (vectors(), vectors()[::-1]):
        rows = measure_signal(model, order, reference=copy.deepcopy(model), max_batches=4).rows
        lost += [f"{row.name}: cosine {row.cosine:.3f}" for row in rows if abs(row.cosine - 1) > 1e-6]
    event = Reflow(0.0, repair="none").apply(model, vectors())
    stages = [[row.variance for row in report.rows] for report in event.signal.values()]
    lost += [] if stages[0] == stages[1] == stages[2] else [f"stages {stages}"]
    for repair in ("moments", "reconstruct"):
        before = {k: v.clone() for k, v in model.state_dict().items()}
        calibrate(model, vectors(), repair=repair, reference=copy.deepcopy(model), max_batches=4)
        moved = max(float((v - before[k]).abs().max()) for k, v in model.state_dict().items())
        lost += [f"{repair} with nothing pruned moves weights by {moved:.3f}"] if moved > 1e-4 else []
    return "; ".join(lost)


def states_are_left(make: Callable[[], Noisy]) -> str:
    model, x = make(), vectors()[0]
    torch.manual_seed(0), random.seed(0), np.random.seed(0)
    undisturbed = copy.deepcopy(model)(x)
    torch.manual_seed(0), random.seed(0), np.random.seed(0)
    measure_signal(model, vectors(), max_batches=2)
    calibrate(model, vectors(), repair="reconstruct", reference=copy.deepcopy(model), max_batches=2).undo()
    return "" if torch.equal(model(x), undisturbed) else "the network draws other numbers than without the passes"


def noise_differs_by_batch() -> str:
    seen: list[float] = []
    model = Noisy(lambda _, x: (noise := torch.randn_like(x), seen.append(float(noise[0, 0])))[0])
    calibrate(model, [torch.zeros(8, 16)] * 3, repair="moments", reference=copy.deepcopy(model), max_batches=3)
    return "" if len(set(seen)) == 3 else f"{len(set(seen))} of 3 batches have noise of their own"


KINDS = [
    Kind(
        "draws",
        "dense and pruned networks that draw are compared under different noise",
        f"{', '.join(DRAWS)}; either order; with reference, stages of an event, moments, reconstruct",
        {f"equal networks with {name}": partial(equal_networks, make) for name, make in DRAWS.items()}
        | {f"states of {name}": partial(states_are_left, make) for name, make in DRAWS.items()}
        | {"noise by batch": noise_differs_by_batch},
    ),
]
