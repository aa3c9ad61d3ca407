"""Rows that the data choose: experts, box heads, early exits. Measured, repaired, and never paired with other rows."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from field_cases.trial import Kind
from reflow_lightning import calibrate, measure_signal, prune

Route = Callable[["Routed", Tensor, Tensor], Tensor]


class Routed(nn.Module):
    """A stem, a gate, and experts that get the rows which a route gives them."""

    def __init__(self, route: Route, norm: bool = False) -> None:
        super().__init__()
        self.route = route
        self.stem, self.gate, self.head = nn.Linear(8, 32), nn.Linear(32, 2), nn.Linear(8, 3)
        experts = [nn.Sequential(nn.Linear(32, 8), *([nn.BatchNorm1d(8)] if norm else [])) for _ in range(2)]
        self.experts = nn.ModuleList(experts)

    def forward(self, x: Tensor) -> Tensor:
        """See `torch.nn.Module`."""
        h = self.stem(x).relu()
        return self.head(self.route(self, h, self.gate(h)))


def by_mask(net: Routed, h: Tensor, scores: Tensor) -> Tensor:
    """Each row to the expert that it likes most."""
    out, chosen = h.new_zeros(len(h), 8), scores.argmax(-1)
    for i, expert in enumerate(net.experts):
        out[chosen == i] = expert(h[chosen == i])
    return out


def half_and_half(net: Routed, h: Tensor, scores: Tensor) -> Tensor:
    """As many rows to each expert, always."""
    out, order = h.new_zeros(len(h), 8), (scores[:, 0] - scores[:, 1]).argsort()
    for i, expert in enumerate(net.experts):
        rows = order.chunk(2)[i]
        out = out.index_copy(0, rows, expert(h.index_select(0, rows)))
    return out


def sorted_and_split(net: Routed, h: Tensor, scores: Tensor) -> Tensor:
    """Rows sorted by expert, split by their numbers."""
    chosen = scores.argmax(-1)
    order = chosen.argsort(stable=True)
    parts = h[order].split(chosen.bincount(minlength=2).tolist())
    made = torch.cat([expert(part) for expert, part in zip(net.experts, parts, strict=True)])
    return torch.zeros_like(made).index_add(0, order, made)


def weighted(net: Routed, h: Tensor, scores: Tensor) -> Tensor:
    """Experts that nobody likes are not called; what they give is weighted."""
    weights, chosen = scores.softmax(-1).topk(1)
    out = h.new_zeros(len(h), 8)
    for i, expert in enumerate(net.experts):
        rows, place = torch.where(chosen == i)
        if len(rows):
            out.index_add_(0, rows, expert(h[rows]) * weights[rows, place, None])
    return out


def early_exit(net: Routed, h: Tensor, scores: Tensor) -> Tensor:
    """Rows that are not sure go through the second expert too."""
    out, unsure = net.experts[0](h), scores.softmax(-1).max(-1).values < 0.6
    out[unsure] = out[unsure] + net.experts[1](h[unsure])
    return out


def best_rows(net: Routed, h: Tensor, scores: Tensor) -> Tensor:
    """As a box head: the best rows alone go on, always as many."""
    best = h[scores[:, 0].topk(len(h) // 2).indices]
    return torch.cat([expert(best) for expert in net.experts])


def by_number(net: Routed, h: Tensor, scores: Tensor) -> Tensor:
    """Rows picked one by one."""
    rows = torch.stack([h[i] for i in scores[:, 0].argsort()[:16].tolist()])
    return torch.cat([expert(rows) for expert in net.experts])


def never(net: Routed, h: Tensor, scores: Tensor) -> Tensor:
    """The second expert gets nothing in either network."""
    out, none = net.experts[0](h[scores[:, 0].argsort()]), torch.zeros(len(h), dtype=torch.bool)
    out[none] = net.experts[1](h[none])
    return out


def _net(route: Route, norm: bool) -> tuple[nn.Module, nn.Module, list[Tensor]]:
    torch.manual_seed(3)
    model, batches = Routed(route, norm).eval(), [torch.randn(64, 8) for _ in range(2)]
    dense = copy.deepcopy(model)
    prune(model, 0.6)
    return model, dense, batches


def _experts(model: nn.Module) -> set[str]:
    return {name for name, _ in model.named_modules() if name.startswith("experts.")}


def _measured(route: Route, norm: bool) -> str:
    model, dense, batches = _net(route, norm)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report = measure_signal(model, batches, reference=dense, max_batches=2)
        same = measure_signal(dense, batches, reference=copy.deepcopy(dense), max_batches=2)
    rows = {row.name: row for row in report.rows}
    wrong = [name for name in ("stem", "gate") if (rows[name].cosine or 0) < 0.5]
    if wrong or any(abs(1 - (row.cosine or 1)) > 1e-9 for row in same.rows if row.variance > 1e-12):
        return f"not paired, though the rows are the same: {wrong}"
    last = "experts.1.1" if norm else "experts.1.0"
    if last in rows and rows[last].cosine is not None and rows[last].variance > 0:
        return f"paired with other rows: {last} has the cosine {rows[last].cosine:.2f}"
    named = [str(w.message) for w in caught if "got other rows" in str(w.message)]
    return "" if route is never or (len(named) == 1 and last in named[0]) else f"{len(named)} warnings"


def _repaired(route: Route, norm: bool, repair: str) -> str:
    model, dense, batches = _net(route, norm)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = calibrate(model, batches, repair=repair, reference=dense, max_batches=2)
    if not all(torch.isfinite(values).all() for values in model.state_dict().values()):
        return "values that are not finite"
    if not {"stem", "gate"} <= set(done.how):
        return "stem or gate left alone"
    fitted = [name for name in _experts(model) & set(done.how) if "least squares" in done.how[name]]
    wrong = [name for name in fitted if not (route is early_exit and name.startswith("experts.0"))]
    return f"fitted to other rows: {wrong}" if wrong and route is not never else ""


_ROUTES: list[Route] = [
    by_mask,
    half_and_half,
    sorted_and_split,
    weighted,
    early_exit,
    best_rows,
    by_number,
    never,
]


def _trials() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for route in _ROUTES:
        for norm in (False, True):
            name = f"{route.__name__.replace('_', ' ')}{', with BatchNorm' * norm}"
            found[f"{name}, measured"] = partial(_measured, route, norm)
            for repair in ("auto", "moments", "reconstruct"):
                found[f"{name}, {repair}"] = partial(_repaired, route, norm, repair)
    return found


KINDS = [
    Kind(
        "rows that the data choose",
        "a layer that gets other rows in the pruned network ends the event, or its rows are paired with others",
        "experts by mask, by halves, sorted, weighted, skipped; early exits; box heads; rows by number; no rows at all",
        _trials(),
    )
]
