"""Times on a device, by its own events where it has such, and rows of the table."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch


def milliseconds(function: Callable[[], object], device: torch.device, turns: int) -> float:
    """The median time of a function, which does the same work whenever it is called; its first run is not counted."""
    function()
    return median(_once(function, device) for _ in range(turns))


def _once(function: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        function()
        return 1e3 * (time.perf_counter() - start)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    begin.record()
    function()
    end.record()
    torch.cuda.synchronize(device)
    return begin.elapsed_time(end)


def row(what: str, result: str, beside: str = "") -> dict[str, Any]:
    """A line of the table: what was done, what came out, and what that is compared with."""
    return {"what": what, "result": result, "beside": beside}
