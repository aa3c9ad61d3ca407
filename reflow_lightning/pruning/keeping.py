"""Keep pruned weights at zero through a training. Plain PyTorch."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from reflow_lightning.pruning.belonging import held_here, tensors_of
from reflow_lightning.pruning.bit_mask import BitMasks
from reflow_lightning.pruning.bits import zero_where_pruned
from reflow_lightning.pruning.probing import Probe
from reflow_lightning.running.shards import local
from reflow_lightning.running.written import Written

_MISSES = 4
"""An optimizer of none of the weights that so often in a row wrote into none of them is looked after no more."""


class ZeroKeeper:
    """Sets pruned weights back to zero after every step of any optimizer, and when it is asked to.

    The weights are masked, not only their gradients: momentum and weight decay move a weight without any gradient.
    What moves weights without a step of a `torch.optim.Optimizer` is noticed by `put_back`, which costs little where
    nothing has moved: it compares how often torch wrote into each tensor, and reads a few pruned weights of each.

    Example:
        >>> from reflow_lightning import Masks
        >>> model = nn.Linear(2, 1)
        >>> optimizer = optim.SGD(model.parameters(), lr=0.1)
        >>> keeper = ZeroKeeper()
        >>> keeper.bind(model, Masks({"weight": torch.tensor([[True, False]])}))
        >>> keeper.watch()
        >>> model(torch.ones(1, 2)).sum().backward()
        >>> _ = optimizer.step()
        >>> model.weight[0, 1].item() == 0
        True
        >>> _ = model.weight.data.fill_(1.0)
        >>> keeper.put_back(), model.weight.tolist()
        (['weight'], [[1.0, 0.0]])
        >>> keeper.release()
    """

    def __init__(self) -> None:
        self._handle: RemovableHandle | None = None
        self._misses: weakref.WeakKeyDictionary[optim.Optimizer, int] = weakref.WeakKeyDictionary()
        self._letting: weakref.WeakSet[optim.Optimizer] = weakref.WeakSet()
        self._hold([], [], [])

    def __reduce__(self) -> Any:
        """A copy, as in another process, holds nothing: what is bound is bound to this one."""
        return ZeroKeeper, ()

    def bind(self, model: nn.Module, masks: BitMasks) -> None:
        """Keep the zeros of these masks, instead of any before.

        Args:
            model: The model.
            masks: The masks. As long as they are bound, bools are held as well, a byte a weight: bits would have to be
                unpacked at every step.

        Raises:
            ValueError: If they do not fit the model. What was bound before still is.
        """
        tensors, held = tensors_of(model, masks.shapes), [_laid_like(v, mask) for v, mask in held_here(model, masks)]
        self.forget_let_moments()  # of what was bound before: the new masks may keep some of those weights
        self._hold(list(masks), tensors, held)

    def is_bound(self, model: nn.Module, masks: BitMasks) -> bool:
        """Whether the model still has the parameters that were bound, as they were, and no others by their names.

        One that has moved to another device, or has data of another shape, is not as it was. It takes a few
        microseconds a parameter, so that it can be asked at every step.
        """
        return list(masks) == self._names and all(
            _find(model, name) is parameter and parameter.shape == shape and parameter.device == held.device
            for (name, shape), parameter, held in zip(masks.shapes.items(), self._parameters, self._masks, strict=True)
        )

    @property
    def is_holding(self) -> bool:
        """Whether masks were bound, and not let go."""
        return bool(self._names)

    def watch(self) -> None:
        """Act after every step of any optimizer, also one that is not known here; a skipped step changes nothing.

        What it holds of torch is let go by `release`, or with the keeper.
        """
        self._stop_watching()
        after_step = weakref.WeakMethod(self._after_step)

        def hook(optimizer: optim.Optimizer, *_: Any) -> None:
            if (act := after_step()) is not None:
                act(optimizer)

        self._handle = register_optimizer_step_post_hook(hook)

    def release(self) -> None:
        """Watch nothing and hold nothing of the model."""
        self._stop_watching()
        self._hold([], [], [])

    def set_zeros(self) -> None:
        """Set the pruned weights to zero now."""
        self._set_zeros(range(len(self._names)))

    def put_back(self) -> list[str]:
        """Set pruned weights to zero where something may have moved them since.

        On an accelerator it sets all of them: that takes less time than to wait for an answer from there.

        Returns:
            The names of those that were seen not to be zero; none of those on an accelerator.
        """
        moved = self._probe.nonzero()
        self._set_zeros({*moved, *self._written.since(), *self._far})
        return [self._names[index] for index in moved]

    def put_all_back(self) -> list[str]:
        """The same for all weights, wherever they are: for moments that are rare, and must be exact."""
        moved = [*self._probe.nonzero(), *self._far_probe.nonzero()]
        self.set_zeros()
        return [self._names[index] for index in moved]

    def mask_gradients(self) -> None:
        """Set the gradients of pruned weights to zero, so that clipping and momentum see only what is alive."""
        pairs = zip(self._parameters, self._masks, strict=True)
        found = [(local(p.grad), mask) for p, mask in pairs if p.grad is not None]
        for gradient, mask in found:
            if gradient.layout != torch.strided:  # of an embedding with sparse=True
                gradient.mul_(mask)
        found = [(gradient, mask) for gradient, mask in found if gradient.layout == torch.strided]
        zero_where_pruned([gradient for gradient, _ in found], [mask for _, mask in found])

    def forget_moments(self, optimizer: optim.Optimizer) -> None:
        """Set momentum and moments of pruned weights to zero in an optimizer's state."""
        for parameter, mask in zip(self._parameters, self._masks, strict=True):
            for value in optimizer.state.get(parameter, {}).values():
                if isinstance(value, Tensor) and value.shape == parameter.shape and value.is_floating_point():
                    here = local(value)
                    zero_where_pruned([here], [mask.to(here.device)])

    def let_moments(self, optimizer: optim.Optimizer) -> None:
        """Note that an optimizer steps with the gradients of pruned weights, and gets moments of them.

        That does no harm where each weight is stepped by itself, and saves a pass over the gradients.
        """
        self._letting.add(optimizer)

    def forget_let_moments(self) -> None:
        """Set those moments to zero, before anybody sees them."""
        for optimizer in self._letting:
            self.forget_moments(optimizer)
        self._letting.clear()

    def _hold(self, names: list[str], tensors: list[Tensor], masks: list[Tensor]) -> None:
        """Keep these masks, as far as this process holds the tensors."""
        self._names, self._parameters, self._masks = names, tensors, masks
        self._places = {id(tensor): place for place, tensor in enumerate(tensors)}
        self._far = [place for place, mask in enumerate(masks) if mask.device.type != "cpu"]
        near = [place for place, mask in enumerate(masks) if mask.device.type == "cpu"]
        self._written = Written(tensors)
        self._probe, self._far_probe = (Probe(tensors, masks, places) for places in (near, self._far))

    def _set_zeros(self, places: Iterable[int]) -> None:
        chosen = list(places)
        values = [local(self._parameters[place].detach()) for place in chosen]
        zero_where_pruned(values, [self._masks[place] for place in chosen])
        self._written.look(chosen)

    def _after_step(self, optimizer: optim.Optimizer) -> None:
        stepped = (id(parameter) for group in optimizer.param_groups for parameter in group["params"])
        known = {self._places[key] for key in stepped if key in self._places}
        if known:  # the rest is left alone: a weight of a forward pass must not be written before its backward pass
            self._set_zeros(known)
        elif (misses := self._misses.get(optimizer, 0)) < _MISSES:  # it may step copies of the weights, and copy them
            written = self._written.since()
            self._set_zeros(written)
            self._misses[optimizer] = 0 if written else misses + 1

    def _stop_watching(self) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None


def _laid_like(values: Tensor, mask: Tensor) -> Tensor:
    """A mask in the order of memory of the values, such as channels last: so torch multiplies several times faster."""
    if mask.stride() == values.stride():
        return mask
    return torch.empty_like(values, dtype=torch.bool).copy_(mask)


def _find(model: nn.Module, name: str) -> Tensor | None:
    """The parameter or buffer of a name, without a walk through the whole model."""
    parent, _, last = name.rpartition(".")
    try:
        found = getattr(model.get_submodule(parent), last, None)
    except AttributeError:
        return None
    return found if isinstance(found, Tensor) else None
