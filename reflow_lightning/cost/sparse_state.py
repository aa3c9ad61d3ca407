"""State dictionaries as pieces of memory without their zeros, and tensors that are views of them."""

from __future__ import annotations

import zlib
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reflow_lightning.cost.compressed import compress, expand
from reflow_lightning.running.bits import INTEGERS
from reflow_lightning.running.compat.torch import tree_leaves, tree_map_only
from reflow_lightning.running.formats import KEY, FormatError, check_format
from reflow_lightning.running.live import extent
from reflow_lightning.running.sharding import is_sharded

FORMAT = 1
"""Of what is written here."""

State = Mapping[str, Any]
"""A state dictionary."""

_PLAIN = (bool, int, float, complex, str, bytes, type(None))

_ALIGNED = 16
"""A piece of memory begins at a multiple of so many bytes: then a tensor of any type begins at a whole element."""


def check_state(state: Any) -> None:
    """Check that a state dictionary can be written without its zeros.

    Raises:
        TypeError: If it is none, or holds what can't be written.

    Example:
        >>> check_state({"weight": torch.ones(2).to_sparse()})
        Traceback (most recent call last):
        TypeError: 'weight' is of the layout torch.sparse_coo: pass a dense state dictionary
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"model_or_state_dict is a {type(state).__name__}: pass a module or its state_dict()")
    for name, value in state.items():
        _check_value(name, value)


def _check_value(name: str, value: Any) -> None:
    """Check a value and what it holds: of the exact types that a file can hold without a class of anybody's."""
    if type(value) in (dict, OrderedDict):
        for key, inner in value.items():
            _check_value(name, key)
            _check_value(name, inner)
    elif type(value) in (list, tuple, torch.Size):
        for inner in value:
            _check_value(name, inner)
    elif type(value) not in _PLAIN:
        _check_tensor(name, value)


def _check_tensor(name: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"'{name}' holds a {type(value).__name__}, neither a tensor nor a plain type: leave it out")
    if is_sharded(value):
        raise TypeError(f"'{name}' is spread over processes: gather the state dictionary first")
    if type(value) not in (Tensor, nn.Parameter):
        kind = type(value).__name__
        raise TypeError(f"'{name}' is a {kind}: convert it to a plain tensor, or write it with torch.save")
    if value.layout != torch.strided or value.is_nested or value.is_quantized:
        kind = "nested" if value.is_nested else "quantized" if value.is_quantized else f"of the layout {value.layout}"
        raise TypeError(f"'{name}' is {kind}: pass a dense state dictionary")
    if value.is_meta:
        raise TypeError(f"'{name}' has no values, as it is on the device 'meta': load the network first")


def packed(state: State) -> dict[str, Any]:
    """A state dictionary as plain types and tensors without their zeros; see `reflow_lightning.cost.save_sparse`.

    Example:
        >>> content = packed({"a": torch.tensor([0.0, 1.0])})
        >>> content["tensors"]["a"]["shape"], content["memory"][0]["kind"]
        ([2], 'mask')
    """
    named = {name: _settled(value) for name, value in state.items() if isinstance(value, Tensor)}
    sharing: dict[tuple[str, int], list[str]] = defaultdict(list)
    for name, tensor in named.items():
        sharing[str(tensor.device), tensor.untyped_storage().data_ptr()].append(name)
    memory, tensors = [], {}
    for number, names in enumerate(sharing.values()):
        start, numbers = _piece([named[name] for name in names])
        memory.append(compress(numbers))
        for name in names:
            tensor = named[name]
            tensors[name] = {
                "memory": number,
                "dtype": tensor.dtype,
                "shape": list(tensor.shape),
                "stride": list(tensor.stride()),
                "offset": max(0, _start(tensor) - start) // tensor.element_size(),
            }
    content = {
        KEY: FORMAT,
        "names": list(state),  # in their order
        "tensors": tensors,
        "memory": memory,
        "others": tree_map_only(
            Tensor, lambda tensor: _settled(tensor).cpu(), {n: value for n, value in state.items() if n not in named}
        ),
    }
    return content | {"checksum": _checksum(content)}


def unpacked(content: Any) -> dict[str, Any]:
    """The state dictionary that `packed` was given, on the CPU.

    Raises:
        FormatError: If a newer version wrote it.
        ValueError: If it is anything else, or was changed since.

    Example:
        >>> unpacked(packed({"a": torch.tensor([0.0, 1.0]), "epoch": 3}))
        {'a': tensor([0., 1.]), 'epoch': 3}
    """
    try:
        check_format(content, FORMAT, "sparse weights")
        if content["checksum"] != _checksum(content):
            raise ValueError("it was changed since it was written, as its checksum shows")
        memory = [expand(stored) for stored in content["memory"]]
        values = content["others"] | {name: _view(memory, view) for name, view in content["tensors"].items()}
        return {name: values[name] for name in content["names"]}
    except FormatError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ValueError(str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}") from error


def _view(memory: Sequence[Tensor], view: Mapping[str, Any]) -> Tensor:
    numbers: Tensor = memory[view["memory"]].view(view["dtype"])
    return numbers.as_strided(view["shape"], view["stride"], view["offset"])


def _settled(tensor: Tensor) -> Tensor:
    """A tensor whose memory holds its values, not their conjugates or negatives."""
    return tensor.detach().resolve_conj().resolve_neg()


def _start(tensor: Tensor) -> int:
    """The byte at which a tensor begins in its memory."""
    return int(tensor.storage_offset()) * tensor.element_size()


def _piece(tensors: Sequence[Tensor]) -> tuple[int, Tensor]:
    """The part of a memory that tensors use: its first byte, and its bits as integers."""
    filled = [tensor for tensor in tensors if tensor.numel()]
    each = max((tensor.element_size() for tensor in filled), default=1)
    start = min(map(_start, filled), default=0) // _ALIGNED * _ALIGNED
    end = max((_start(tensor) + extent(tensor) for tensor in filled), default=start)
    raw = torch.empty(0, dtype=torch.uint8, device=tensors[0].device).set_(tensors[0].untyped_storage())
    piece = torch.zeros(-(-(end - start) // each) * each, dtype=torch.uint8)
    piece[: end - start] = raw[start:end]
    return start, piece.view(INTEGERS[min(each, max(INTEGERS))])


def _checksum(content: Mapping[str, Any]) -> int:
    """A number that nearly every change changes; torch notices none in the bytes of a tensor."""
    others = tree_map_only(Tensor, lambda tensor: (str(tensor.dtype), list(tensor.shape)), content["others"])
    checksum = zlib.crc32(repr([content["names"], content["tensors"], others]).encode())
    for tensor in tree_leaves(content["others"]):
        if isinstance(tensor, Tensor):
            checksum = zlib.crc32(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes(), checksum)
    for stored in content["memory"]:
        checksum = zlib.crc32(repr([(stored["kind"], stored["size"])]).encode(), checksum)
        for key in ("values", "where", "negative"):
            if key in stored:
                checksum = zlib.crc32(stored[key].numpy(), checksum)
    return checksum
