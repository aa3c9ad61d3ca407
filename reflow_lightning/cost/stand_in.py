"""A tensor that is computed only where its values are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from reflow_lightning.running.compat.torch import tree_map_only

_KNOWN = {
    getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "requires_grad", "is_leaf", "layout")
}


class StandIn(Tensor):
    """Tells its shape, type and device at no cost; every function of torch gets the tensor that it stands for.

    Code that reads the weight of a layer, such as ``layer.weight.dtype``, goes on to work where the layer has no dense
    weight any more. The fused kernel of `torch.nn.TransformerEncoderLayer`, which reads the weights of its linear
    layers instead of calling them, is not used with tensors of a class of one's own.

    Example:
        >>> import torch
        >>> asked = []
        >>> stand_in = StandIn.of(torch.zeros(()), (2, 2), lambda: asked.append("values") or torch.eye(2))
        >>> stand_in.shape, asked
        (torch.Size([2, 2]), [])
        >>> stand_in.sum(), asked
        (tensor(2.), ['values'])
    """

    _values: Callable[[], Tensor]

    @classmethod
    def of(cls, like: Tensor, shape: Sequence[int], values: Callable[[], Tensor]) -> StandIn:
        """Stand for a tensor.

        Args:
            like: Has its type and its device.
            shape: Its shape.
            values: Computes it.
        """
        stand_in = like.new_zeros(()).expand(shape).as_subclass(cls)
        stand_in._values = values
        return stand_in

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _KNOWN:
            return super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]
        args, kwargs = tree_map_only(cls, lambda stand_in: stand_in._values(), (args, kwargs or {}))
        return func(*args, **kwargs)
