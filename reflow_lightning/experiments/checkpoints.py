"""Load the weights of a public checkpoint into a network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor, nn

from reflow_lightning.experiments.spreading import load_state
from reflow_lightning.running.compat.torch import COMPILED
from reflow_lightning.running.files import read_tensors
from reflow_lightning.running.names import few

_WRAPPERS = ("module.", "model.", "net.", f"{COMPILED}.")  # of DataParallel, of a LightningModule, of torch.compile
_ENTRIES = ("state_dict", "model_state_dict", "model", "net")


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint, without the prefixes that wrappers gave their names.

    Args:
        path: A file of ``torch.save``: a state dict, or a dict with one under a usual name. No code in it is run.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or holds no state dict.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"ckpt={path} {'is no file' if Path(path).exists() else 'does not exist'}")
    try:
        content = read_tensors(Path(path))
    except ValueError as error:
        raise ValueError(f"ckpt={path} can't be read as tensors, or is damaged: {error}") from error
    for entry in _ENTRIES:
        if isinstance(content, Mapping) and isinstance(content.get(entry), Mapping):
            content = content[entry]
            break
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"ckpt={path} holds no weights: it must be a state dict, or have one under {_ENTRIES}")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    prefix = _wrapper_prefix(tensors)
    return {name.removeprefix(prefix): value for name, value in tensors.items()}


def _wrapper_prefix(names: Iterable[str]) -> str:
    """What wrappers put before all the names."""
    names, prefix = list(names), ""
    while wrapper := next((w for w in _WRAPPERS if names and all(n.startswith(prefix + w) for n in names)), None):
        prefix += wrapper
    return prefix


def load_weights(net: nn.Module, path: str | Path) -> None:
    """Load a checkpoint into a network, all of it or nothing.

    Args:
        net: The network; unchanged if an error is raised.
        path: See `read_weights`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or of another network: names what differs.
    """
    wanted = net.state_dict()
    prefix = _wrapper_prefix(wanted)  # the network may have one itself
    weights = {prefix + name: value for name, value in read_weights(path).items()}
    counters = {name for name in wanted if name.endswith("num_batches_tracked")}  # old checkpoints have none
    missing = sorted(wanted.keys() - weights.keys() - counters)
    unexpected = sorted(weights.keys() - wanted.keys())
    odd = [n for n in weights.keys() & wanted.keys() if weights[n].shape != wanted[n].shape]
    found = [
        f"{what} {few(names)}"
        for what, names in (("it lacks", missing), ("it also has", unexpected), ("of another shape are", sorted(odd)))
        if names
    ]
    if found:
        raise ValueError(f"ckpt={path} is not of this {type(net).__name__}: {'; '.join(found)}")
    load_state(net, weights, strict=False)
