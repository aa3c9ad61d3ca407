"""Which parts of a network `fully_shard` (FSDP2) is applied to, where nobody has said so."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import nn

from reflow_lightning.running.sharding import sharded_modules


def blocks(net: nn.Module) -> list[str]:
    """The repeated blocks of a network: the outermost modules around layers whose type occurs several times.

    Example:
        >>> class Block(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.inner = nn.Linear(2, 2)
        >>> blocks(nn.Sequential(nn.Linear(2, 2), Block(), Block()))
        ['1', '2']
    """
    around = {
        name: type(module)
        for name, module in net.named_modules()
        if name
        and not isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict))
        and any(next(child.parameters(), None) is not None for child in module.children())
    }
    counts = Counter(around.values())
    repeated = [name for name, kind in around.items() if counts[kind] > 1]
    return [name for name in repeated if not any(name.startswith(f"{outer}.") for outer in repeated)]


def spread(net: nn.Module, mesh: Any, **options: Any) -> None:
    """Spread the parameters of a network over the devices of a mesh: block by block, then what is left; once.

    Args:
        net: The network.
        mesh: A mesh of one dimension.
        **options: Further arguments of `fully_shard`.

    Raises:
        ValueError: If a block shares a parameter with what is outside of it: `fully_shard` would separate the two.
    """
    from torch.distributed.fsdp import fully_shard

    if sharded_modules(net):
        return
    names = blocks(net)
    _check_shared(net, names)
    for name in names:
        fully_shard(net.get_submodule(name), mesh=mesh, **options)
    fully_shard(net, mesh=mesh, **options)


def _check_shared(net: nn.Module, names: list[str]) -> None:
    first: dict[int, tuple[str, str]] = {}  # by the parameter: its first name, and the block that this is in
    for name, parameter in net.named_parameters(remove_duplicate=False):
        block = next((block for block in names if name.startswith(f"{block}.")), "")
        known, where = first.setdefault(id(parameter), (name, block))
        if where != block:
            raise ValueError(
                f"'{known}' and '{name}' are one parameter, and lie in parts that fully_shard separates: apply "
                "fully_shard in configure_model, to a module that holds both"
            )


def spread_children(module: nn.Module, mesh: Any, **options: Any) -> None:
    """`spread` each network in a module that is not called itself, such as a LightningModule.

    Args:
        module: The module.
        mesh: A mesh of one dimension.
        **options: Further arguments of `fully_shard`.

    Raises:
        ValueError: If a parameter lies in the module itself, or in several of its networks. Nothing is spread then.
    """
    for name, _ in module.named_parameters(recurse=False):
        raise ValueError(
            f"parameter '{name}' lies in {type(module).__name__} itself, which fully_shard can't spread, as nobody "
            "calls it: put it into a module of its own, or apply fully_shard in configure_model"
        )
    networks = _networks(module)
    _check_shared(module, list(networks))
    for net in networks.values():
        _check_shared(net, blocks(net))
    for net in networks.values():
        spread(net, mesh, **options)


def _networks(module: nn.Module) -> dict[str, nn.Module]:
    """The outermost modules with parameters that can be called, by name; lists of modules can't."""
    found: dict[str, nn.Module] = {}
    for name, child in module.named_children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            found |= {f"{name}.{inner}": net for inner, net in _networks(child).items()}
        elif next(child.parameters(), None) is not None:
            found[name] = child
    return found
