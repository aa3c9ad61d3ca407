"""Weights and activations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reflow_lightning.layers.inputs import input_energies, named_arguments
from reflow_lightning.layers.weights import weight_names
from reflow_lightning.pruning.criteria.estimated import Estimated
from reflow_lightning.pruning.criteria.registry import register_criterion
from reflow_lightning.pruning.criteria.totals import Totals
from reflow_lightning.running.exact import exact
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.isolation import only_training


@dataclass(frozen=True)
class Wanda:
    """Magnitude times the norm of the input: *A Simple and Effective Pruning Approach* (arXiv 2306.11695).

    The score of a weight is ``|w| ||x||_2``, where x holds all values that the weight multiplies over all samples and
    positions. It takes no labels and no gradients, and does not depend on the split into batches.

    The paper compares the weights of one output only: ``PerOutput("wanda")``. By itself the criterion compares all.

    Linear layers, convolutions, `torch.nn.MultiheadAttention` and torch's recurrent layers and cells are known. Padded
    positions and tokens count like others; for a transposed convolution so does what its padding cuts off.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> batch, weights = torch.tensor([[3.0, 1.0], [4.0, 0.0]]), {"weight": torch.tensor([[1.0, 2.0]])}
        >>> Wanda().estimate(layer, weights, [batch], nn.Module.__call__)("weight", layer.weight)
        tensor([[5., 2.]], dtype=torch.float64)
    """

    def estimate(
        self, model: nn.Module, weights: Mapping[str, Tensor], batches: Iterable[Any], forward: Forward, /
    ) -> Estimated:
        """See `DataCriterion`.

        Raises:
            ValueError: If a weight belongs to no layer whose inputs are known.
        """
        owners = _owners(model, weights)
        totals = Totals({name: weight.shape for name, weight in weights.items()}, like=weights)
        with _listening(owners, lambda name, energy: totals.add({name: energy})), only_training(model, ()):
            for batch in batches:
                with torch.no_grad():
                    forward(model, batch)
        energies = totals.everywhere()
        return Estimated(self, {n: energy.sqrt_().mul_(exact(weights[n]).abs_()) for n, energy in energies.items()})


def _owners(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[nn.Module, dict[str, str]]:
    """The modules whose inputs the weights multiply, and the parameters' names by those within the module."""
    named = dict(model.named_parameters(remove_duplicate=False))
    names = {id(named[name]): name for name in weights}
    owners: dict[nn.Module, dict[str, str]] = {}
    for module in model.modules():
        if input_energies(module) is None:
            continue
        within = dict(module.named_parameters(remove_duplicate=False))
        own = [*weight_names(module), *(["out_proj.weight"] if isinstance(module, nn.MultiheadAttention) else [])]
        found = {name: names[id(within[name])] for name in own if name in within and id(within[name]) in names}
        if found:
            owners[module] = found
    known = {name for found in owners.values() for name in found.values()}
    if unknown := [name for name in weights if name not in known]:
        raise ValueError(
            f"Wanda knows no input of '{unknown[0]}': it knows Linear, Conv*, attention and torch's own recurrent "
            "layers; leave it out with exclude, or use a criterion with gradients, such as 'fisher'"
        )
    return owners


@contextmanager
def _listening(
    owners: Mapping[nn.Module, Mapping[str, str]], listener: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """Hand the sums of squares in every call of the modules to a listener, with the name of the parameter."""

    def hand_over(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        energies = input_energies(module)
        assert energies is not None
        try:
            for name, energy in energies(module, named_arguments(module, args, kwargs)):
                if name in owners[module]:
                    listener(owners[module][name], energy)
        except ValueError as error:
            name = next(iter(owners[module].values()))
            raise ValueError(f"Wanda can't see what '{name}' multiplies: {error}; leave it out with exclude") from error

    with ExitStack() as stack:
        stack.enter_context(torch.compiler.set_stance("force_eager"))  # compiled code would not run the hooks
        stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)  # nor does this
        for module in owners:
            stack.callback(module.register_forward_pre_hook(hand_over, with_kwargs=True).remove)
        yield


register_criterion("wanda", Wanda())
