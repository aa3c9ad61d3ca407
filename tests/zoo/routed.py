"""Networks in which the data choose the rows of a layer."""

from __future__ import annotations

from torch import Tensor, nn


class Experts(nn.Module):
    """Each row goes to one of two experts; with ``balanced`` to each as many, so that numbers tell nothing."""

    def __init__(self, balanced: bool = False, norm: bool = False) -> None:
        super().__init__()
        self.balanced = balanced
        self.stem, self.gate, self.head = nn.Linear(8, 32), nn.Linear(32, 2), nn.Linear(8, 3)
        within = [nn.Sequential(nn.Linear(32, 8), *([nn.BatchNorm1d(8)] if norm else [])) for _ in range(2)]
        self.experts = nn.ModuleList(within)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).relu()
        scores = self.gate(h)
        liking = scores[:, 0] - scores[:, 1]
        first = liking > (liking.median() if self.balanced else 0)
        out = h.new_zeros(len(h), 8)
        for rows, expert in zip((first, ~first), self.experts, strict=True):
            out[rows] = expert(h[rows])
        return self.head(out)
