"""Masks as plain values, such as a file holds."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from reflow_lightning.pruning.bit_mask import BitMasks
from reflow_lightning.pruning.bits import gathered
from reflow_lightning.running.bits import pack_all, unpack_each
from reflow_lightning.running.formats import KEY, FormatError, check_format
from reflow_lightning.running.inference import outside_inference
from reflow_lightning.running.processes import gather
from reflow_lightning.running.world import world_size

FORMAT = 1
"""Of what is written here. Version 0.1 wrote the same without a number."""


def packed(masks: BitMasks) -> dict[str, Any]:
    """Format, names, shapes, one bit a weight and a checksum; of masks that are spread over processes the whole.

    Example:
        >>> from reflow_lightning import Masks
        >>> packed(Masks({"weight": torch.tensor([[True, False]])}))["bits"]
        tensor([128], dtype=torch.uint8)
    """
    shapes = masks.shapes
    bits = pack_all(map(gathered, masks.values()), sum(shape.numel() for shape in shapes.values()))
    return {
        KEY: FORMAT,
        "names": list(shapes),
        "shapes": [list(shape) for shape in shapes.values()],
        "bits": bits,
        "checksum": _checksum(shapes, bits),
    }


def unpacked(state: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Name and mask, on the CPU, one after the other, from what `packed` gave.

    Raises:
        FormatError: At once, if a newer version wrote it.
        ValueError: At once, if it is anything else, or was changed since.

    Example:
        >>> from reflow_lightning import Masks
        >>> list(unpacked(packed(Masks({"weight": torch.tensor([[True, False]])}))))
        [('weight', tensor([[ True, False]]))]
    """
    try:
        check_format(state, FORMAT, "masks")
        shapes = dict(zip(state["names"], map(torch.Size, state["shapes"]), strict=True))
        if any(size < 0 for shape in shapes.values() for size in shape):
            raise ValueError("a shape is negative")
        bits = state["bits"].cpu()
        flat = unpack_each(bits, [shape.numel() for shape in shapes.values()])
        unchanged = state["checksum"] == _checksum(shapes, bits)
    except FormatError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"this is no state of Masks ({type(error).__name__}: {error}): pass what Masks.state_dict() gave"
        ) from error
    if not unchanged:
        raise ValueError("the masks were changed since they were saved, as their checksum shows: use another copy")
    return ((name, part.view(shape)) for (name, shape), part in zip(shapes.items(), flat, strict=True))


@outside_inference()
def are_alike(masks: BitMasks) -> bool:
    """Whether all processes, which all must call this, hold the same masks."""
    return world_size() == 1 or len(set(gather(packed(masks)["checksum"]))) == 1


def check_agreement(masks: BitMasks) -> None:
    """Check that all processes chose the same weights; those that are spread over them are chosen together anyway.

    Raises:
        ValueError: If they did not.
    """
    if not masks.are_spread and not are_alike(masks):
        raise ValueError(
            "the processes chose different weights: give all of them the same arguments and weights, and let a "
            "criterion of your own return the same scores on all"
        )


def _checksum(shapes: Mapping[str, torch.Size], bits: Tensor) -> int:
    """A number that nearly every change to masks changes; torch notices none in the bytes of a tensor."""
    described = repr([(name, *shape) for name, shape in shapes.items()])
    return zlib.crc32(bits.numpy().tobytes(), zlib.crc32(described.encode()))
