"""Weights and activations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from reflow_lightning.layers import Call, Inventory, Layer, NotSupportedError
from reflow_lightning.layers.padding import Padding, Valid
from reflow_lightning.pruning.criteria.energies import ByEnergy, Energies
from reflow_lightning.pruning.criteria.per_output import within_outputs
from reflow_lightning.pruning.criteria.protocols import Criterion
from reflow_lightning.pruning.criteria.reach import INPUT, Reach
from reflow_lightning.pruning.criteria.registry import register_criterion
from reflow_lightning.running.arguments import tensors_of
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.hooks import watching_inputs
from reflow_lightning.running.isolation import only_training


@dataclass(frozen=True)
class Wanda:
    """Magnitude times the norm of the input: *A Simple and Effective Pruning Approach* (arXiv 2306.11695).

    The score of a weight is ``|w| ||x||_2``, where x holds all values that the weight multiplies over all samples and
    positions. It takes no labels and no gradients, and does not depend on the split into batches.

    As in the paper the weights of one output are compared with each other only, so that each output loses the same
    share; see `PerOutput`. Scores of several layers have no scale in common: compared over all, they empty those whose
    inputs are small.

    Linear layers, convolutions, `torch.nn.MultiheadAttention` and torch's recurrent layers and cells are known. What is
    told to be padding of a sequence does not count; for a transposed convolution what its padding cuts off does.

    Attributes:
        group: Which weights are compared: within one ``"output"``, or ``"all"``.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> batch, weights = torch.tensor([[3.0, 1.0], [4.0, 0.0]]), {"weight": torch.tensor([[1.0, 2.0]])}
        >>> Wanda("all").estimate(layer, weights, [batch], nn.Module.__call__)("weight", weights["weight"])
        tensor([[5., 2.]], dtype=torch.float64)
        >>> Wanda().estimate(layer, weights, [batch], nn.Module.__call__)("weight", weights["weight"])
        tensor([[1.0000, 0.5000]], dtype=torch.float64)
    """

    group: Literal["output", "all"] = "output"
    unit_by_unit: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.group not in ("output", "all"):
            raise ValueError(f"group={self.group!r} must be 'output', as in the paper, or 'all'")

    def estimate(
        self, model: nn.Module, weights: Mapping[str, Tensor], batches: Iterable[Any], forward: Forward, /
    ) -> Criterion:
        """See `DataCriterion`.

        Raises:
            ValueError: If a weight belongs to no layer whose inputs are known, or no input reaches it; see `Reach`.
        """
        owners = _owners(model, weights)
        energies, reach = Energies(weights), Reach(weights)
        padding, valid = Padding(model), Valid()

        def take_in(name: str, call: Call) -> None:
            layer, names = owners[name]
            call = valid.call(call, layer)
            if not any(tensor.numel() for tensor in tensors_of((call.args, call.kwargs))):
                return  # no sample, as of an expert to which none was sent
            try:
                for weight, energy in layer.energies(call):
                    if weight in names:
                        energies.add(names[weight], energy)
                        reach.note({names[weight]: energy})
            except (NotSupportedError, ValueError) as error:
                first = next(iter(names.values()))
                raise ValueError(
                    f"Wanda can't see what '{first}' multiplies: {error}; leave it out with exclude"
                ) from error

        with only_training(model, ()), torch.no_grad():
            for batch in batches:
                valid = padding.of(model, batch, forward)
                with watching_inputs(model, owners, take_in):
                    forward(model, batch)
                reach.note({})
        reach.check(INPUT)
        found = ByEnergy(self, energies.everywhere())
        return found if self.group == "all" else within_outputs(model, weights, found)


def _owners(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, tuple[Layer, dict[str, str]]]:
    """The layers whose inputs the weights multiply, by module name, and the parameters' names by those within."""
    named = dict(model.named_parameters(remove_duplicate=False))
    names = {id(named[name]): name for name in weights}
    owners: dict[str, tuple[Layer, dict[str, str]]] = {}
    for owned in Inventory.of(model).weights.values():
        if owned.layer.sees_inputs and id(owned.parameter) in names:
            _, found = owners.setdefault(owned.layer.name, (owned.layer, {}))
            found[owned.weight.name] = names[id(owned.parameter)]
    known = {name for _, found in owners.values() for name in found.values()}
    if unknown := [name for name in weights if name not in known]:
        raise ValueError(
            f"Wanda knows no input of '{unknown[0]}': it knows linear layers, convolutions, attention, recurrent "
            "layers and what says so when it is registered with layer_of; leave it out with exclude, or use a "
            "criterion with gradients, such as 'fisher'"
        )
    return owners


register_criterion("wanda", Wanda())
