"""A network of which the loss, or the data, may not reach a part."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Parted(nn.Module):
    """A body, a part and a head; ``how`` says what lies between the loss and the part.

    Args:
        how: One of `UNREACHED`, where no gradient comes to the part, of `REACHED`, where some does, or of `ZERO`, where
            it is zero.
    """

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how = how
        self.body, self.part, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        if "frozen" in how:
            self.part.requires_grad_(False)
        if how == "norm that begins with zero":
            self.norm = nn.LayerNorm(6)
            nn.init.zeros_(self.norm.weight)
        if how == "tied":
            self.twin = nn.Linear(6, 6)
            self.twin.weight = self.part.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x).relu()
        return self.head(h + self.of_part(h))

    def of_part(self, h: Tensor) -> Tensor:
        match self.how:
            case "under no_grad" | "frozen and under no_grad":
                with torch.no_grad():
                    return self.part(h)
            case "detached":
                return self.part(h).detach()
            case "in train mode only":
                return self.part(h) if self.training else h
            case "never called":
                return h
            case "for some batches":
                return self.part(h) if len(h) > 2 else h
            case "for some samples":
                chosen = h[:, 0] > 0
                return h.clone().index_put((chosen,), self.part(h[chosen]))
            case "checkpointed":
                return checkpoint(self.part, h, use_reentrant=False)
            case "tied":
                return self.twin(h)
            case "rectifier that is off":
                return (self.part(h) - 1e6).relu()
            case "factor of zero":
                return self.part(h) * 0
            case "norm that begins with zero":
                return self.norm(self.part(h))
            case _:
                return self.part(h)


UNREACHED = ("under no_grad", "frozen and under no_grad", "detached", "in train mode only", "never called")
REACHED = ("called", "frozen", "for some batches", "for some samples", "checkpointed", "tied")
ZERO = ("rectifier that is off", "factor of zero", "norm that begins with zero")


def batches_of(*sizes: int) -> list[Any]:
    """Labelled batches of these numbers of samples."""
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(n, 4, generator=generator), torch.randint(3, (n,), generator=generator)) for n in sizes]
