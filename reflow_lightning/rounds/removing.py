"""Remove the rectifier that switches least: a neuron that is mostly off puts out zero, and the others their input."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from reflow_lightning.layers import layer_of
from reflow_lightning.layers.padding import Padding
from reflow_lightning.pruning import Masks
from reflow_lightning.running.as_forward import AnyForward, as_forward
from reflow_lightning.running.batches import Batches, Limit, device_of
from reflow_lightning.running.inference import outside_inference
from reflow_lightning.running.isolation import isolated_rng, only_training
from reflow_lightning.running.names import nearest
from reflow_lightning.running.sharding import is_spread
from reflow_lightning.signal.layer_entropy import RectifierStates
from reflow_lightning.signal.neurons import layer_entropy
from reflow_lightning.signal.places import RectifierPlaces


@dataclass(frozen=True)
class RemovedRectifier:
    """A rectifier that is the identity from now on.

    Attributes:
        layer: Name of the layer before it.
        rectifier: Name of the module that it was.
        entropy: How often it switched, in bits; see `reflow_lightning.signal.measure_entropy`.
        off: How many neurons of the layer were mostly off, and put out zero now.
        masks: Which of the layer's weights and biases stay: ``masks.keep(model, optimizer)`` keeps the others zero.
    """

    layer: str
    rectifier: str
    entropy: float
    off: int
    masks: Masks = field(repr=False)


@outside_inference()
@torch.no_grad()
def remove_rectifier(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    layer: str | None = None,
    max_batches: Limit = 50,
    forward: AnyForward | None = None,
    progress: bool = True,
) -> RemovedRectifier:
    """Replace a rectifier by the identity, and set the weights to zero of the neurons before it that are mostly off.

    So the authors of *Layer Collapse Can be Induced by Unstructured Pruning* (arXiv 2404.16890) remove the GELUs of
    transformers in their scripts: the one whose neurons switch least goes, the network is trained on, and the next one
    follows. The output changes as far as neurons do switch, and since GELU and SiLU are bent. The layers around it stay
    two layers; `reflow_lightning.collapse` takes out the neurons of zeros and merges the two where that is cheaper.

    Args:
        model: Its rectifiers must be modules, each after one layer; it is changed.
        batches: Any iterable of batches; where padding is known, it does not count.
        layer: Name of the layer before the rectifier; by default the one whose rectifier has the lowest entropy.
        max_batches: At most so many batches.
        forward: ``(model, batch) -> anything``; by default as in `reflow_lightning.calibrate`.
        progress: Show a bar in a terminal if it takes more than two seconds.

    Raises:
        ValueError: If there is no batch, or no such rectifier: none that is a module of its own, after a layer whose
            rows are known. Nothing is changed then.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 2))
        >>> removed = remove_rectifier(model, [torch.randn(64, 4)], layer="2", max_batches=1)
        >>> removed.rectifier, model[3], int((model[2].weight == 0).all(1).sum()) == removed.off
        ('3', Identity(), True)
    """
    if is_spread(model):
        raise ValueError(f"{type(model).__name__} is spread over processes: remove rectifiers before that, or use DDP")
    run, states, places = as_forward(forward), RectifierStates(model), RectifierPlaces(model)
    moved = Batches(batches, max_batches, device_of(model), task="removal of a rectifier", progress=progress)
    with only_training(model, ()), isolated_rng():
        padding = Padding(model)
        for batch in moved:
            with states.counting(model, padding.of(model, batch, run)), places.watching(model):
                run(model, batch)
    moved.check()
    counts = {name: found for name, (_, found) in states.counts().items() if name in places.replaceable}
    entropies = {name: layer_entropy(found) for name, found in counts.items()}
    name = min(entropies, key=lambda n: entropies[n], default="") if layer is None else layer
    if name not in counts:
        raise ValueError(_refusal(name, places))
    off = counts[name].on <= counts[name].off
    masks = row_masks(name, model.get_submodule(name), ~off)
    masks.apply(model)
    rectifier = model.get_submodule(places.replaceable[name])
    for held in [n for n, m in model.named_modules(remove_duplicate=False) if m is rectifier]:
        model.set_submodule(held, nn.Identity())
        around: Any = model.get_submodule(held.rpartition(".")[0])
        if hasattr(around, "activation_relu_or_gelu"):  # by which torch's encoder layers choose a fused kernel
            around.activation_relu_or_gelu = 0
    return RemovedRectifier(name, places.replaceable[name], entropies[name], int(off.sum()), masks)


def _refusal(name: str, places: RectifierPlaces) -> str:
    others = "; ".join(f"that after {layer} {reason}" for layer, reason in places.others.items())
    told = f" ({others})" if others else ""
    if not name:
        return f"no rectifier is left that is a module of its own, directly after a layer{told}"
    return (
        f"layer={name!r} names no layer that such a rectifier follows{told}: use one of {sorted(places.replaceable)}"
        f"{nearest(name, places.replaceable)}"
    )


def row_masks(name: str, module: nn.Module, stays: Tensor) -> Masks:
    """Masks that leave some rows of a layer, its weights and its biases, and no others.

    Args:
        name: The layer's.
        module: The layer.
        stays: Truth values of shape (channels,).

    Example:
        >>> masks = row_masks("fc", nn.Linear(2, 3), torch.tensor([True, False, True]))
        >>> {name: mask.tolist() for name, mask in masks.items()}
        {'fc.weight': [[True, True], [False, False], [True, True]], 'fc.bias': [True, False, True]}
    """
    masks, known = {}, layer_of(module, name)
    for weight in () if known is None else known.weights:
        values = module.get_parameter(weight.name)
        shape = [1] * values.ndim
        shape[weight.outputs] = -1
        masks[f"{name}.{weight.name}"] = stays.to(values.device).view(shape).expand(values.shape).clone()
    if isinstance(getattr(module, "bias", None), nn.Parameter):
        masks[f"{name}.bias"] = stays.to(device_of(module))
    return Masks(masks)
