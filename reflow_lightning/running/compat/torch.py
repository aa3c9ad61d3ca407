"""Private names of torch. Each has a test that says which of them is gone, or behaves otherwise, in which version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn, overrides
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.parametrizations import _SpectralNorm, _WeightNorm
from torch.nn.utils.spectral_norm import SpectralNorm as OldSpectralNorm
from torch.nn.utils.weight_norm import WeightNorm as OldWeightNorm
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only, tree_structure
from torch.utils.data import DataLoader

__all__ = [
    "TorchDispatchMode",
    "is_traceable_wrapper_subclass",
    "tree_leaves",
    "tree_map",
    "tree_map_only",
    "tree_structure",
]
__all__ += ["OldSpectralNorm", "OldWeightNorm"]  # hooks of torch.nn.utils, which a parametrization has followed

BatchNorm = _BatchNorm
"""Every BatchNorm layer of torch.nn, SyncBatchNorm included."""

RunningNorm = _NormBase
"""Every layer that may keep running statistics: BatchNorm and InstanceNorm."""

Convolution = _ConvNd
"""Every convolution, transposed ones included."""

TransposedConvolution = _ConvTransposeNd
"""Every transposed convolution."""

WeightNorm = _WeightNorm
"""The parametrization by `torch.nn.utils.parametrizations.weight_norm`."""

SpectralNorm = _SpectralNorm
"""The parametrization by `torch.nn.utils.parametrizations.spectral_norm`."""

NATIVE_FUNCTIONS: Any = torch._C._nn
"""The functions of `torch.nn.functional` that are written in C++."""

Unwatched: Any = torch._C.DisableTorchFunction
"""A block whose functions no mode of torch sees, such as those that compute statistics of what a mode watches."""

_OF_MODULES = frozenset(vars(nn.Module()))

COMPILED = "_orig_mod"
"""Under this name a module that `torch.compile` returned holds the one that it was given."""

ASSERT: Any = torch._assert
"""Checks a condition, also as a step of a traced graph."""

CHECK_DIMENSIONS = "_check_input_dim"
"""The method in which a BatchNorm layer checks how many dimensions its input has."""

CONVOLVE = "_conv_forward"
"""The method in which a convolution of torch does its work; see `convolve`."""


_MODES: Any = overrides  # which has no types


def function_modes() -> list[Any]:
    """The modes that see the functions of torch in this thread, the innermost last."""
    modes: list[Any] = _MODES._get_current_function_mode_stack()
    return modes


def push_function_mode(mode: Any) -> None:
    """Let a mode see the functions of torch in this thread."""
    _MODES._push_mode(mode)


def pop_function_mode() -> None:
    """Take the innermost mode off."""
    _MODES._pop_mode()


class FunctionMode(TorchFunctionMode):
    """A mode that leaves the modes as it found them, even if Ctrl-C strikes while torch has taken one off.

    Example:
        >>> class Counter(FunctionMode):
        ...     calls = 0
        ...
        ...     def __torch_function__(self, func, types, args=(), kwargs=None):
        ...         self.calls += 1
        ...         return func(*args, **(kwargs or {}))
        >>> with Counter() as counter:
        ...     _ = torch.zeros(1).relu()
        >>> counter.calls
        2
    """

    def __enter__(self) -> Any:  # as torch has it: the mode
        self._before = function_modes()
        try:
            push_function_mode(self)
            return self
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        while len(now := function_modes()) > len(self._before):
            pop_function_mode()
        for mode in self._before[len(now) :]:
            push_function_mode(mode)


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that a module itself holds, by name; also one that it holds twice.

    Example:
        >>> list(own_parameters(nn.Linear(2, 2, bias=False)))
        ['weight']
    """
    return {name: parameter for name, parameter in module._parameters.items() if parameter is not None}


def may_hold(module: nn.Module, name: str) -> bool:
    """Whether a module has a place for a parameter of that name, though there may be none in it.

    Example:
        >>> may_hold(nn.Linear(2, 2, bias=False), "bias")
        True
    """
    return name in module._parameters


def own_buffers(module: nn.Module) -> dict[str, Tensor | None]:
    """The buffers that a module itself holds, by name, ``None`` where it may have one; to be written into."""
    return module._buffers


def own_children(module: nn.Module) -> dict[str, nn.Module | None]:
    """The modules that a module itself holds, by name; to be written into."""
    return module._modules


def inner_of_compiled(module: nn.Module) -> nn.Module | None:
    """What `torch.compile` was given, if it returned this module."""
    return dict(module.named_children()).get(COMPILED)


def is_compiled(module: nn.Module) -> bool:
    """Whether `torch.compile` or ``Module.compile`` has made it run compiled code."""
    return inner_of_compiled(module) is not None or vars(module).get("_compiled_call_impl") is not None


def run_uncompiled(module: nn.Module) -> None:
    """Undo ``Module.compile``, and what Lightning put in the place of the methods of a compiled LightningModule."""
    vars(module)["_compiled_call_impl"] = None
    for name in [name for name, value in vars(module).items() if hasattr(value, "_torchdynamo_orig_callable")]:
        del vars(module)[name]


def plain_attributes(module: nn.Module) -> dict[str, Any]:
    """What a module holds beside parameters, buffers, modules, and the trainer that Lightning puts there."""
    held = ("_parameters", "_buffers", "_modules", "_trainer", "_fabric")
    return {name: value for name, value in vars(module).items() if name not in held}


def own_attributes(module: nn.Module) -> dict[str, Any]:
    """Of `plain_attributes`, those that not every module has."""
    return {name: value for name, value in plain_attributes(module).items() if name not in _OF_MODULES}


def iterate_power(norm: _SpectralNorm | OldSpectralNorm, module: nn.Module, weight: Tensor, times: int) -> None:
    """Have a spectral norm find the largest singular value of a stored weight anew, as far as so many steps do."""
    if isinstance(norm, OldSpectralNorm):
        for _ in range(-(-times // max(1, norm.n_power_iterations))):
            norm.compute_weight(module, do_power_iteration=True)
    elif weight.ndim > 1:
        norm._power_method(norm._reshape_weight_to_matrix(weight), times)


def recurrent_weights(module: nn.RNNBase) -> list[str]:
    """The names of the parameters of a recurrent layer."""
    return module._flat_weights_names


def padding_sides(conv: _ConvNd) -> list[int]:
    """How `torch.nn.functional.pad` pads as a convolution does, whichever padding it was asked for."""
    return conv._reversed_padding_repeated_twice


def convolve(conv: Any, values: Tensor, weight: Tensor) -> Tensor:
    """What a convolution that is not transposed makes of values with another weight, and without a bias."""
    convolved: Tensor = conv._conv_forward(values, weight, None)
    return convolved


def times_written(tensor: Tensor) -> int | None:
    """How often something wrote into a tensor; ``None`` if it does not count that.

    Example:
        >>> times_written(torch.zeros(1).add_(1))
        1
    """
    return None if tensor.is_inference() else tensor._version


def multiply_each(tensors: Sequence[Tensor], factors: Sequence[Tensor]) -> None:
    """Multiply tensors in place, with few kernels."""
    torch._foreach_mul_(list(tensors), list(factors))


def takes_exact_statistics(values: Tensor) -> bool:
    """Whether a BatchNorm layer that is called with values in train mode sums them in float64.

    So does the kernel for the CPU where the values of a channel lie in one piece in each sample. The kernels for other
    layouts, narrow types and accelerators sum in float32: of a million values they know the variance to a thousandth.
    """
    wide = values.dtype in (torch.float32, torch.float64)
    return values.device.type == "cpu" and wide and values.is_contiguous() and values.shape[2:].numel() > 1


def operator_of(overload: Any) -> Any:
    """The operator that an overload such as ``aten.mm.default`` belongs to, such as ``aten.mm``; or itself."""
    return getattr(overload, "_overloadpacket", overload)


def load_with_torch_alone(graph: fx.Graph) -> None:
    """Have a graph, once it is saved, load without the package of the tracer that made it."""
    graph._tracer_cls = fx.Tracer


def forget_iterator(loader: DataLoader[Any]) -> None:
    """Have a copy of a loader that keeps its workers start workers of its own."""
    vars(loader)["_iterator"] = None
