"""What repairs that write weights have in common: what they need, and that they change all or nothing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from reflow_lightning.calibration.enough import First
from reflow_lightning.calibration.repair import Calibration, remembered
from reflow_lightning.layers.find import find_layers
from reflow_lightning.layers.layer import Layer
from reflow_lightning.running.batches import Batches, device_of
from reflow_lightning.running.compat.torch import BatchNorm
from reflow_lightning.running.hooks import Call
from reflow_lightning.running.isolation import only_training
from reflow_lightning.running.names import few_reasons
from reflow_lightning.running.processes import gather, warn
from reflow_lightning.running.units import part_here


class Change:
    """A change that is under way.

    Attributes:
        repaired: Names of the layers that were changed.
        otherwise: What was done to layers that were changed in another way, by name.
        unchanged: Why layers that were wanted were not changed, in words.
    """

    def __init__(self, modules: Mapping[str, nn.Module], how: str) -> None:
        self.repaired: tuple[str, ...] = ()
        self.otherwise: dict[str, str] = {}
        self.unchanged = "no batch reached it"
        self.before = remembered(modules.values())
        self._how = how
        self._start = time.perf_counter()

    def calibration(self, batches: Iterable[Any], wanted: Iterable[str], skipped: Mapping[str, str]) -> Calibration:
        """The record of what was done with the layers that were wanted; a warning names those left alone."""
        left = {**skipped, **dict.fromkeys(wanted, self.unchanged)}
        left = {name: why for name, why in left.items() if name not in self.repaired}
        if left:
            warn(f"calibrate left alone {few_reasons(left)}")
        count = sum(gather(batches.count if isinstance(batches, (Batches, First)) else sum(1 for _ in batches)))
        seconds = time.perf_counter() - self._start
        how = dict.fromkeys(self.repaired, self._how) | self.otherwise
        return Calibration(self.repaired, left, count, seconds, self.before, how)


@contextmanager
def changing(model: nn.Module, names: Iterable[str], reference: nn.Module | None, how: str) -> Iterator[Change]:
    """Change layers of a model within the block, in eval mode; if it raises, they are as they were.

    Args:
        model: The pruned network.
        names: Names of the layers that may be changed.
        reference: The dense network, which runs in eval mode meanwhile too.
        how: What is done to them, in words.

    Raises:
        ValueError: If the dense network is missing or another one.
    """
    modules = {name: model.get_submodule(name) for name in names}
    change = Change(modules, how)
    with ExitStack() as stack, torch.no_grad():
        for network in (model, reference):
            if network is not None:
                stack.enter_context(only_training(network, (), written=modules.values()))
        try:
            yield change
            _check_finite(modules)
        except BaseException:
            if change.before is not None:
                change.before.restore()
            raise


def check_reference(model: nn.Module, layers: Mapping[str, Layer], reference: nn.Module | None, how: str) -> nn.Module:
    """Check that the dense network is there and has the same layers.

    Raises:
        ValueError: If not, or the weights of the model are spread over processes.

    Example:
        >>> check_reference(nn.Linear(2, 2), {}, None, "moments")
        Traceback (most recent call last):
        ValueError: reference=None, but repair by moments compares with the dense network: pass a copy of it...
    """
    if reference is None:
        raise ValueError(
            f"reference=None, but repair by {how} compares with the dense network: pass a copy of it from before the "
            "pruning, reference=copy.deepcopy(model)"
        )
    if reference is model:
        raise ValueError("reference is the pruned model itself: pass a copy from before the pruning")
    if device_of(reference) != device_of(model):
        raise ValueError(f"reference is on {device_of(reference)}, the model on {device_of(model)}: move it there")
    known = find_layers(reference).known
    for name, layer in layers.items():
        sizes = [affine.channels for affine in known[name].maps] if name in known else None
        if sizes != [affine.channels for affine in layer.maps]:
            raise ValueError(f"reference={type(reference).__name__} lacks layer '{name}', or has another there")
        own = {id(parameter) for parameter in model.get_submodule(name).parameters()}
        if any(id(parameter) in own for parameter in reference.get_submodule(name).parameters()):
            raise ValueError(f"reference shares the parameters of '{name}' with the pruned model: pass a deep copy")
    if _is_pruned_copy(model, reference, layers):
        warn("reference has all the weights of the model, zeros included: copy it before prune()")
    return reference


def _is_pruned_copy(model: nn.Module, reference: nn.Module, names: Iterable[str]) -> bool:
    zeros = total = 0
    for name in names:
        others = dict(reference.get_submodule(name).named_parameters())
        for parameter, values in model.get_submodule(name).named_parameters():
            here, other = part_here(values), others.get(parameter, values)
            if not torch.equal(here, part_here(other)):
                return False
            zeros += int((here == 0).sum()) if values.ndim > 1 else 0
            total += values.numel() if values.ndim > 1 else 0
    return zeros > 0.1 * total


def not_reached(name: str) -> ValueError:
    """What to raise where a pass through the dense network reaches fewer layers than one through the pruned one."""
    return ValueError(
        f"layer '{name}' is reached in the model, but not so in the reference: let forward(model, batch) run the model "
        "that it is given, and pass a reference that is not compiled"
    )


def stray(name: str, _: Call) -> None:
    """Refuse a call of a layer of the pruned network while the dense one runs."""
    raise not_reached(name)


def _check_finite(modules: Mapping[str, nn.Module]) -> None:
    for name, module in modules.items():
        buffers = module.named_buffers() if isinstance(module, BatchNorm) else ()
        held = ((of_module, part_here(parameter)) for of_module, parameter in module.named_parameters())
        for of_module, values in (*held, *buffers):
            if not is_lazy(values) and not values.is_meta and not bool(torch.isfinite(values).all()):
                raise ValueError(
                    f"the repair gave NaN or infinite values in '{name}.{of_module}': look at the batches and at the "
                    "layers above it"
                )
