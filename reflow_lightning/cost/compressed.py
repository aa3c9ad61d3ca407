"""Numbers, many of them zero, in the fewest bytes: bit for bit, and without asking what they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from reflow_lightning.running.bits import pack, unpack

_FEW = 2**31
"""Positions below need four bytes each."""


def compress(numbers: Tensor) -> dict[str, Any]:
    """Store numbers in the smallest of three ways.

    They are kept whole (``"dense"``), or without the zeros: then the others follow one bit a number that says which are
    not zero (``"mask"``), or the position of each (``"indices"``). An integer whose highest bit alone is set is what a
    float calls -0.0. It counts as a zero too: one more bit a number says where these are, if there are any.

    Args:
        numbers: A flat tensor of signed integers on the CPU, that holds the bits of the numbers.

    Returns:
        Plain types and tensors. Their sizes in bytes, for n numbers of b bytes with k non-zeros: ``n b``, or
        ``n / 8 + k b``, or ``k (4 + b)``, and ``n / 8`` for the -0.0.

    Example:
        >>> compress(torch.tensor([0, 0, 7, 0], dtype=torch.int16))["kind"]
        'mask'
        >>> compress(torch.eye(100, dtype=torch.int32).flatten())["kind"]
        'indices'
    """
    size, each = numbers.numel(), numbers.element_size()
    is_negative_zero = numbers == torch.iinfo(numbers.dtype).min
    kept = (numbers != 0) & ~is_negative_zero
    count, bits = int(kept.count_nonzero()), -(-size // 8)
    signs = bits if bool(is_negative_zero.any()) else 0
    index = torch.int32 if size < _FEW else torch.int64
    bytes_of = {
        "dense": size * each,
        "mask": bits + count * each + signs,
        "indices": count * (index.itemsize + each) + signs,
    }
    kind = min(bytes_of, key=lambda name: bytes_of[name])
    if kind == "dense":
        return {"kind": kind, "size": size, "values": numbers}
    where = pack(kept) if kind == "mask" else kept.nonzero()[:, 0].to(index)
    stored = {"kind": kind, "size": size, "values": numbers[kept], "where": where}
    return stored | ({"negative": pack(is_negative_zero)} if signs else {})


def expand(stored: Mapping[str, Any]) -> Tensor:
    """The numbers that `compress` was given.

    Raises:
        ValueError: If it is nothing that `compress` gave.

    Example:
        >>> expand(compress(torch.tensor([0, 7, 0, 0, -128], dtype=torch.int8)))
        tensor([   0,    7,    0,    0, -128], dtype=torch.int8)
    """
    kind, size, values = stored["kind"], stored["size"], stored["values"]
    if kind == "dense":
        return torch.as_tensor(values).clone()
    if kind not in ("mask", "indices"):
        raise ValueError(f"kind={kind!r} must be 'dense', 'mask' or 'indices'")
    numbers = torch.zeros(size, dtype=values.dtype)
    numbers[unpack(stored["where"], size) if kind == "mask" else stored["where"].long()] = values
    if "negative" in stored:
        numbers[unpack(stored["negative"], size)] = torch.iinfo(values.dtype).min
    return numbers
