"""Weights on disk without their zeros, in a file that torch alone reads too."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import nn

from reflow_lightning.cost.sparse_state import State, check_state, packed, unpacked
from reflow_lightning.running.files import read_tensors, write_tensors
from reflow_lightning.running.formats import reading
from reflow_lightning.running.inference import outside_inference
from reflow_lightning.running.processes import together
from reflow_lightning.running.world import rank


@outside_inference()
def save_sparse(model_or_state_dict: nn.Module | State, path: str | os.PathLike[str]) -> None:
    """Write the state of a network without its zeros, whole or not at all.

    Each tensor is stored in the smallest of three ways: as it is, as its non-zeros and a bit a weight, or, where hardly
    any is left, as its non-zeros and their positions. In float32 a weight takes 0.53 bytes at a sparsity of 0.9, and 4
    in a dense file. What is read is equal bit for bit, NaN and -0.0 included; a tensor with a -0.0 takes one more bit a
    weight. Tensors that share memory share it again.

    Where processes run together, call it on all of them; rank zero writes.

    The file is one of `torch.save`, so that it can be read without this package. These lines do:

        content = torch.load(path, weights_only=True)
        memory = []
        for part in content["memory"]:
            numbers, where = part["values"], part.get("where")
            if part["kind"] == "mask":  # the first weight is the highest bit
                where = (where[:, None] >> torch.arange(7, -1, -1) & 1).flatten()[: part["size"]].nonzero()[:, 0]
            if part["kind"] != "dense":
                numbers = torch.zeros(part["size"], dtype=numbers.dtype).index_put((where.long(),), numbers)
            if "negative" in part:  # bits of what is -0.0
                bits = (part["negative"][:, None] >> torch.arange(7, -1, -1) & 1).flatten()[: part["size"]]
                numbers[bits.bool()] = torch.iinfo(numbers.dtype).min
            memory.append(numbers)
        state = {
            name: memory[t["memory"]].view(t["dtype"]).as_strided(t["shape"], t["stride"], t["offset"])
            for name, t in content["tensors"].items()
        }

    Args:
        model_or_state_dict: A module, or a state dictionary. Values that are no tensors must be of plain types.
        path: The file; its folder must exist.

    Raises:
        TypeError: If it is neither, or holds what can't be written. Then no file is touched.
        OSError: If the file can't be written.

    Example:
        >>> import tempfile
        >>> import torch
        >>> layer, path = nn.Linear(1000, 100), Path(tempfile.mkdtemp()) / "weights.pt"
        >>> with torch.no_grad():
        ...     _ = layer.weight[:, 100:].zero_()
        >>> save_sparse(layer, path)
        >>> path.stat().st_size < 0.6 * layer.weight.numel()
        True
        >>> torch.equal(load_sparse(path)["weight"], layer.weight)
        True
    """
    state = model_or_state_dict.state_dict() if isinstance(model_or_state_dict, nn.Module) else model_or_state_dict
    check_state(state)
    with together(f"writing {path}"):
        if rank() == 0:
            write_tensors(Path(path), packed(state))


@outside_inference()
def load_sparse(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a file of `save_sparse`: a plain state dictionary, dense and on the CPU. No code in it is run.

    Raises:
        FormatError: If a newer version wrote it.
        ValueError: If it is damaged, or another kind of file.
        OSError: If it can't be read.

    Example:
        >>> import tempfile
        >>> import torch
        >>> path = tempfile.mkdtemp() + "/weights.pt"
        >>> save_sparse({"a": torch.tensor([0.0, -0.0, 2.0])}, path)
        >>> load_sparse(path)
        {'a': tensor([0., -0., 2.])}
    """
    with reading(path, "save_sparse"):
        return unpacked(read_tensors(Path(path)))
