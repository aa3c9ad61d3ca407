"""What operators multiply: how often, and which of them multiply in a way that no formula tells."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from reflow_lightning.running.compat.torch import operator_of


class Product(NamedTuple):
    """What a call of an operator multiplies.

    Attributes:
        multiply_adds: Multiplications with an addition.
        operands: The tensors that are multiplied. If both hold weights, the last is the layer's own.
    """

    multiply_adds: int
    operands: tuple[Tensor, ...]


def product_of(overload: Any, args: Any, kwargs: Any, out: Any) -> Product | None:
    """What a call has multiplied; ``None`` if there is no formula.

    The formulas of this file come first, then those that torch has for operators which are not listed here, and that
    users add with ``torch.utils.flop_counter.register_flop_formula``.

    Args:
        overload: The operator, as ``__torch_dispatch__`` is given it.
        args: Of the call.
        kwargs: Of the call.
        out: Its result.
    """
    from torch.utils.flop_counter import flop_registry  # here, since it loads triton

    formula, places = _FORMULAS.get(name_of(overload).removesuffix("_"), (None, ()))
    if formula is not None:
        return Product(formula(args, out), tuple(args[place] for place in places))
    theirs = flop_registry.get(operator_of(overload))
    if theirs is None:
        return None
    operands = tuple(value for value in args[:2] if isinstance(value, Tensor))
    return Product(int(theirs(*args, **kwargs, out_val=out)) // 2, operands)  # torch counts multiplications, additions


def is_unknown(overload: Any) -> bool:
    """Whether an operator without a formula may well hold products.

    An operator of torch does if its name says so: nothing else tells. One of another library is taken to.

    Example:
        >>> import torch
        >>> is_unknown(torch.ops.aten._cdist_forward.default), is_unknown(torch.ops.aten.relu.default)
        (True, False)
    """
    library, _, name = name_of(overload).rpartition(".")
    if library == "aten":
        words = name.split("_")
        return any(map(_PRODUCTS.fullmatch, words)) and not any(map(_NO_PRODUCTS.fullmatch, words))
    return library not in _QUIET


def name_of(overload: Any) -> str:
    """The name of an operator with its library, such as ``aten.mm``."""
    return str(operator_of(overload))


def _matrices(first: int) -> Callable[[Any, Any], int]:
    """Every value of the first matrix is multiplied by a row of the second; either may be a vector."""

    def count(args: Any, _: Any) -> int:
        one, two = args[first], args[first + 1]
        return int(one.numel() * (two.shape[-1] if two.ndim > 1 else 1))

    return count


def _grouped(args: Any, out: Any) -> int:
    """Groups of rows of one matrix, each by a matrix of its own, as in experts; the groups may also lie elsewhere."""
    one, two = args[:2]
    groups = len(one) if one.ndim > two.ndim else 1  # each of its matrices then meets some of the columns
    return int(one.numel() * two.shape[-1]) // groups


def _linear(args: Any, _: Any) -> int:
    return int(args[0].numel() * (args[1].shape[0] if args[1].ndim > 1 else 1))


def _convolution(args: Any, out: Any) -> int:
    """Every output sums over what its filter covers, padding included; if transposed, every input is spread so."""
    weight, transposed = args[1], args[6]
    return int((args[0] if transposed else out).numel() * weight[0].numel())


def _filters(args: Any, out: Any) -> int:
    """As of a convolution that is never transposed."""
    return int(out.numel() * args[1][0].numel())


def _over_time(args: Any, out: Any) -> int:
    """A convolution of (time, samples, channels), with a weight (size, inputs, outputs)."""
    return int(out.numel() * args[1][..., 0].numel())


def _bilinear(args: Any, out: Any) -> int:
    """One multiplication by each weight and sample: of the products of both inputs, which are made value by value."""
    return int(out.numel() * args[1][0].numel())


def _attention(args: Any, _: Any) -> int:
    """Queries by keys, and the scores by the values; a mask saves nothing. Queries may share the heads of keys."""
    query, key, value = args[:3]
    return int(query[..., 0].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1]))


_FORMULAS: dict[str, tuple[Callable[[Any, Any], int] | None, tuple[int, ...]]] = {
    **{f"aten.{name}": (_matrices(0), (0, 1)) for name in ("mm", "bmm", "mv", "dot", "vdot", "_int_mm")},
    **{f"aten.{name}": (_matrices(1), (1, 2)) for name in ("addmm", "baddbmm", "addbmm", "addmv", "_addmm_activation")},
    **{f"aten.{name}": (_convolution, (0, 1)) for name in ("convolution", "_convolution", "convolution_overrideable")},
    **{
        f"aten._scaled_dot_product_{kind}": (_attention, ())
        for kind in (
            "flash_attention_for_cpu",
            "flash_attention",
            "efficient_attention",
            "cudnn_attention",
            "fused_attention_overrideable",
        )
    },
    "aten.linear": (_linear, (0, 1)),
    "aten._grouped_mm": (_grouped, (0, 1)),
    "transformers.grouped_mm_fallback": (_grouped, (0, 1)),
    "aten._trilinear": (_bilinear, (0, 2, 1)),
    "aten.conv_tbc": (_over_time, (0, 1)),
    "torchvision.deform_conv2d": (_filters, (0, 1)),
}

_PRODUCTS = re.compile(
    r"(mm|bmm|addmm|baddbmm|addbmm|smm|hspmm|sspaddmm|spsolve|mv|addmv|dot|matmul|gemm|linear|trilinear|bilinear"
    r"|conv|conv[123]d|convolution|depthwise[23]d|dilated[23]d|transpose[23]d|attention|transformer|rnn|lstm|gru"
    r"|fft|cdist|pdist|linalg|cholesky|solve|svd|inverse|geqrf|orgqr|ormqr)"
)
"""Words in the names of operators that hold products, unless there is one of the next beside it."""
_NO_PRODUCTS = re.compile(r"(thnn|norm|cross|check|diagonal|flatten|reorder|prepack|pack|slice)")
_QUIET = ("prim", "prims", "profiler", "c10d", "_c10d_functional", "torchvision")
"""Libraries without products: torch's own, and torchvision, except its operator that has a formula."""
