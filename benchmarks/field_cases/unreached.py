"""Weights that no gradient, or no input, reaches are taken for worthless."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from field_cases.trial import Kind
from reflow_lightning import prune
from reflow_lightning.pruning import PerOutput

GRADIENTS = ("fisher", "taylor", "snip", "woodfisher", PerOutput("fisher"))


class Parted(nn.Module):
    """A body, a part that is run as a function says, and a head."""

    def __init__(self, run: Callable[[nn.Module, Tensor], Tensor], trained: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.run = run
        self.body, self.part, self.head = nn.Linear(4, 6), nn.Linear(6, 6).requires_grad_(trained), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        """The part lies beside a shortcut."""
        h = self.body(x).relu()
        return self.head(h + self.run(self, h))


def _found(run: Callable[[Any, Tensor], Tensor], criterion: Any, reached: bool, trained: bool = True) -> str:
    """What is lost: of a reached part an error, of any other one that is pruned or not named."""
    model, generator = Parted(run, trained), torch.Generator().manual_seed(1)
    batches = [(torch.randn(n, 4, generator=generator), torch.arange(n) % 3) for n in (4, 2)]
    before = model.part.weight.clone()
    try:
        prune(model, 0.5, criterion=criterion, batches=batches, max_batches=2)
    except ValueError as error:
        unchanged = "" if torch.equal(before, model.part.weight) else "the network was changed"
        return "an error for a part that is reached" if reached else unchanged if "'part.weight'" in str(error) else "?"
    gone = float((model.part.weight == 0).float().mean())
    return "" if reached else f"{gone:.0%} of the part gone without a word"


HOW: dict[str, tuple[Callable[[Any, Tensor], Tensor], bool]] = {
    "under no_grad": (lambda m, h: torch.no_grad()(m.part)(h), False),
    "detached": (lambda m, h: m.part(h).detach(), False),
    "in train mode only": (lambda m, h: m.part(h) if m.training else h, False),
    "never called": (lambda m, h: h, False),
    "for some batches": (lambda m, h: m.part(h) if len(h) > 2 else h, True),
    "for some samples": (lambda m, h: h.clone().index_put((h[:, 0] > 0,), m.part(h[h[:, 0] > 0])), True),
    "everywhere": (lambda m, h: m.part(h), True),
}
TRIALS = {
    f"{name}{'' if trained else ', frozen'}, {criterion}": functools.partial(_found, run, criterion, reached, trained)
    for name, (run, reached) in HOW.items()
    for trained in (True, False)
    for criterion in GRADIENTS
}
TRIALS |= {
    f"{name}, wanda": functools.partial(_found, run, "wanda", reached or name in ("under no_grad", "detached"))
    for name, (run, reached) in HOW.items()
}

KINDS = [
    Kind(
        "unreached",
        "what no gradient or input reaches is taken for worthless",
        "no_grad, detach, heads of the training alone, layers that are never called; frozen; experts that some batches "
        "reach; by each criterion that takes data",
        TRIALS,
    )
]
