"""Whether a layer with a forward of its own multiplies by its weight as it is stored, so that zeros act as zeros."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from reflow_lightning.layers.layer import has_own_forward
from reflow_lightning.running.compat.torch import Convolution, FunctionMode, own_parameters
from reflow_lightning.running.copying import dense_copy
from reflow_lightning.running.isolation import isolated_rng
from reflow_lightning.running.lent import is_lent
from reflow_lightning.running.sharding import is_sharded

_PRODUCTS = frozenset(
    getattr(functional, f"conv{transposed}{dims}d") for transposed in ("", "_transpose") for dims in (1, 2, 3)
) | {functional.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm, torch.addmm}


def zeros_act(module: nn.Module, name: str = "weight") -> bool:
    """Whether zeros of a stored weight are zeros where it multiplies; true as well where that can't be tried.

    A weight-standardised convolution subtracts a mean first, for example, which leaves no zero. A copy of the layer
    with a random weight runs on a small random input, and the factors of its products are looked at.

    Args:
        module: A linear layer or a convolution, or of a subclass.
        name: The weight.

    Example:
        >>> class Standardised(nn.Conv2d):
        ...     def forward(self, x):
        ...         return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)
        >>> zeros_act(Standardised(3, 8, 3)), zeros_act(nn.Conv2d(3, 8, 3))
        (False, True)
    """
    weight = own_parameters(module).get(name)
    if not isinstance(module, (nn.Linear, Convolution)) or weight is None or not has_own_forward(module):
        return True
    if nn.parameter.is_lazy(weight) or weight.is_meta or is_sharded(weight) or is_lent(weight) or weight.numel() < 2:
        return True
    try:
        factors = _factors(module, name, weight.shape)
    except Exception:  # a forward of the user's may ask for anything
        return True
    return not factors or any(not bool(factor.flatten()[::2].any()) for factor in factors)


@torch.no_grad()
def _factors(module: nn.Module, name: str, shape: Sequence[int]) -> list[Tensor]:
    """What the layer multiplies by, in the shape of the weight, where every other value of this is zero."""
    tried = dense_copy(module)
    tried.training = False
    with isolated_rng(seed=0):
        weight = torch.rand(shape) + 0.5
        weight.flatten()[::2] = 0
        stored = own_parameters(tried)[name]
        stored.copy_(weight)
        watch = _Factors(shape)
        with watch:
            tried.forward(_input(module, shape).to(stored))
    return watch.found


def _input(module: nn.Module, shape: Sequence[int]) -> Tensor:
    """A few samples, as many as no dimension of a matrix has, so that they are not taken for one."""
    samples = next(number for number in (2, 3, 5) if number not in shape[:2])
    if isinstance(module, nn.Linear):
        return torch.randn(samples, module.in_features)
    assert isinstance(module, Convolution)
    reach = (d * (size - 1) + 3 for size, d in zip(module.kernel_size, module.dilation, strict=True))
    return torch.randn(samples, module.in_channels, *reach)


class _Factors(FunctionMode):
    """Collects the factors of products that have a shape, or its transpose."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.found: list[Tensor] = []
        self._shape = tuple(shape)

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func in _PRODUCTS:
            given: Mapping[str, Any] = kwargs or {}
            for factor in filter(lambda part: isinstance(part, Tensor), (*args, *given.values())):
                if factor.shape == self._shape:
                    self.found.append(factor.detach().clone())
                elif len(self._shape) == 2 and factor.shape == self._shape[::-1]:
                    self.found.append(factor.detach().T.clone())
        return func(*args, **(kwargs or {}))
