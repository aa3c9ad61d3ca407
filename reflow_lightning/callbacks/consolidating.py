"""A checkpoint that several processes wrote into a folder, as a file that a Trainer of one process goes on from."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import torch

from reflow_lightning.running.files import write_tensors

_META = "meta.pt"
"""Where Lightning puts what is neither weights nor states of optimizers."""


def consolidate(folder: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Make one file of a checkpoint in a folder, as `FullyShard` and `ModelParallelStrategy` write them.

    The file holds whole weights, the states of optimizers and callbacks, masks included, as a Trainer of one process
    writes them; ``torch.load(path, weights_only=True)["state_dict"]`` are the weights. No process group is needed. It
    takes twice the memory of the checkpoint. Read folders of people you trust only: torch unpickles what is in there.

    Args:
        folder: The checkpoint.
        path: The file; what was there before stays until it is whole.

    Raises:
        ValueError: If the folder holds no such checkpoint.

    Example:
        >>> consolidate("nowhere", "one.ckpt")
        Traceback (most recent call last):
        ValueError: nowhere is no checkpoint of several processes, which is a folder with meta.pt and .metadata
    """
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    folder = Path(folder)
    if not all((folder / name).is_file() for name in (_META, ".metadata")):
        raise ValueError(
            f"{folder} is no checkpoint of several processes, which is a folder with {_META} and .metadata"
        )
    with tempfile.TemporaryDirectory(dir=Path(path).absolute().parent) as beside:
        dcp_to_torch_save(folder, whole := Path(beside) / "whole.pt")
        parts: dict[str, Any] = torch.load(whole, weights_only=True)
    meta: dict[str, Any] = torch.load(folder / _META, weights_only=True)
    found = (re.fullmatch(r"optimizer_(\d+)", name) for name in parts)
    numbers = sorted(int(match[1]) for match in found if match)
    states = [_by_number(parts[f"optimizer_{number}"]) for number in numbers]
    write_tensors(Path(path), meta | {"state_dict": parts["state_dict"], "optimizer_states": states})


def _by_number(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state of an optimizer with parameters numbered, as torch has it, that has them by name."""
    numbers = count()
    places = {name: next(numbers) for group in state["param_groups"] for name in group["params"]}
    groups = [{**group, "params": [places[name] for name in group["params"]]} for group in state["param_groups"]]
    return {"state": {places[name]: values for name, values in state.get("state", {}).items()}, "param_groups": groups}
