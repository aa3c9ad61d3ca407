"""Networks that are whole one unit at a time, where `fully_shard` spreads them over processes.

A unit is what `fully_shard` was applied to, without the units within it. A copy of the network runs by itself, and
its parameters are empty but while a unit is in use. A process that needs one asks for it (`asked_for`), and all send
their parts of it wherever they are, so that processes may run other batches, fewer of them, or none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from reflow_lightning.running.attention_mask import Around
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.isolation import replaced
from reflow_lightning.running.lent import LENT, is_lent, kept
from reflow_lightning.running.offers import offered
from reflow_lightning.running.plain import hollow_copy, plain_copy
from reflow_lightning.running.processes import in_step
from reflow_lightning.running.sharding import casts, is_sharded, runs_by_unit, sharded_modules, splits_layers, whole
from reflow_lightning.running.shards import Placement, local
from reflow_lightning.running.unit import Unit

_HELD = "_unit_of_reflow_lightning"


def by_unit(model: nn.Module) -> nn.Module:
    """A copy of a network under `fully_shard` whose parameters are the network's own parts, and whole while in use.

    What is written into them while they are whole reaches the network. Buffers, and parameters that are not spread, are
    copies. All processes must call this.
    """
    return _copied(model, Tensor.detach, changes=True)


def copied_by_unit(model: nn.Module) -> nn.Module:
    """The same with parts of its own, which take as much memory as the network's, and are not written."""
    return _copied(model, _cloned, changes=False)


def _cloned(spread: Tensor) -> Tensor:
    placement = Placement.of(spread)
    return spread.detach().clone() if placement is None else placement.around(local(spread.detach()).clone())


@contextmanager
def runnable(model: nn.Module) -> Iterator[nn.Module]:
    """A network that each process can run by itself on batches of its own, however the model is spread over processes.

    It is for what reads a model: the model itself, if it is not spread. Under `fully_shard` it is whole one unit at a
    time, or altogether where that is not enough, see `runs_by_unit`, or its units cast values; if layers are split over
    processes, it is a whole copy. All processes must call this.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> with runnable(model) as network:
        ...     network is model
        True
    """
    if splits_layers(model):
        yield plain_copy(model)
    elif runs_by_unit(model) and not casts(model):
        network = _copied(model, Tensor.detach, changes=False)
        with serving(network):
            yield network
    else:
        with whole(model):
            yield model


@torch.no_grad()
def _copied(model: nn.Module, kept_as: Callable[[Tensor], Tensor], changes: bool) -> nn.Module:
    copied = hollow_copy(model)
    names = {id(module): name for name, module in model.named_modules()}
    units = sorted((names[id(module)] for module in sharded_modules(model)), key=len)
    parts: dict[str, list[tuple[nn.Parameter, Tensor]]] = {name: [] for name in units}
    for name, parameter in model.named_parameters():
        if is_sharded(parameter):
            innermost = [unit for unit in units if f"{name}.".startswith(f"{unit}." if unit else "")][-1]
            parts[innermost].append((copied.get_parameter(name), kept_as(parameter)))
    for name, lent in parts.items():
        vars(copied.get_submodule(name))[_HELD] = Unit(lent, changes)
    return copied


def _unit_of(parameter: Tensor) -> Unit | None:
    unit: Unit | None = LENT[parameter]() if is_lent(parameter) else None
    return unit


@contextmanager
def serving(network: nn.Module | None) -> Iterator[None]:
    """A block in which a copy of `by_unit` or `copied_by_unit` can run; all processes must be in it together."""
    modules = [] if network is None else [module for module in network.modules() if _HELD in vars(module)]
    with ExitStack() as stack:
        for module in modules:
            unit: Unit = vars(module)[_HELD]
            stack.enter_context(replaced(module, "forward", unit.around(module.forward)))
            unit.number = stack.enter_context(offered(unit.send))
            stack.callback(setattr, unit, "number", None)
            stack.callback(unit.let_go)
        yield
        if modules:
            with in_step():  # others may still need the parts of this process
                pass


def from_outermost(forward: Forward) -> Forward:
    """A forward pass in which the outermost units are whole, whichever of their methods or layers it calls."""

    def run(model: nn.Module, batch: Any) -> Any:
        with ExitStack() as stack:
            for unit in _outermost(model):
                stack.enter_context(unit.in_use())
            return forward(model, batch)

    return Around(forward, run)


def _outermost(module: nn.Module) -> Iterator[Unit]:
    if not LENT:
        return
    if _HELD in vars(module):
        yield vars(module)[_HELD]
        return
    for child in module.children():
        yield from _outermost(child)


@contextmanager
def held(*modules: nn.Module) -> Iterator[None]:
    """A block in which the parameters of modules are whole, to be read or written beside a forward pass.

    Parameters that are whole anyway are left alone.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> with held(layer):
        ...     layer.weight.shape
        torch.Size([2, 2])
    """
    with ExitStack() as stack:
        units = (_unit_of(parameter) for module in modules for parameter in module.parameters())
        for unit in dict.fromkeys(unit for unit in units if unit is not None):
            stack.enter_context(unit.held())
        yield


def each_held(modules: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """Each of some modules, while its parameters are whole; its unit stays so if the next module needs it, too.

    Example:
        >>> [type(module).__name__ for module in each_held([nn.Linear(2, 2), nn.ReLU()])]
        ['Linear', 'ReLU']
    """
    last = ExitStack()
    try:
        for module in modules:
            with ExitStack() as stack:
                stack.enter_context(held(module))
                last.close()
                last = stack.pop_all()
            yield module
    finally:
        last.close()


def part_here(parameter: nn.Parameter) -> Tensor:
    """What this process holds of a parameter, without asking others: all of it, but in a network of `by_unit`.

    Example:
        >>> part_here(nn.Linear(2, 3).weight).shape
        torch.Size([3, 2])
    """
    return local(kept(parameter))
