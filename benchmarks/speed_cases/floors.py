"""What the machine at hand can do at best: how fast it copies, and how fast it multiplies."""

from __future__ import annotations

from functools import cache

import torch
from paired import by_turns


@cache
def bytes_per_second() -> float:
    """Bytes that are read or written a second while a large tensor is copied."""
    source = torch.rand(1 << 25)
    target = torch.empty_like(source)
    return 2 * 4 * source.numel() / min(by_turns({"copy": lambda: target.copy_(source)}, 7).seconds["copy"])


@cache
def operations_per_second() -> float:
    """Multiplications and additions a second in the product of two square matrices of float32."""
    matrix = torch.rand(1024, 1024)
    return 2 * 1024**3 / min(by_turns({"product": lambda: matrix @ matrix}, 7).seconds["product"])
