"""Rectifiers observed while a network runs, modules and functions alike, named by the weighted layers before them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from reflow_lightning.layers.rows import tensors_in
from reflow_lightning.running.compat.torch import FunctionMode
from reflow_lightning.running.hooks import Call, plain, watching, watching_inputs
from reflow_lightning.running.names import owner_of
from reflow_lightning.signal.by_hand import rectifiers_by_hand
from reflow_lightning.signal.origins import Origin, joined, moved_dim

_RECTIFIERS = frozenset(
    ("relu", "relu6", "hardtanh", "leaky_relu", "prelu", "rrelu", "gelu", "silu", "hardswish", "elu")
)
_CONVOLUTIONS = {f"{name}{n}d": n for name in ("conv", "conv_transpose") for n in (1, 2, 3)}
_PRODUCTS = frozenset(_CONVOLUTIONS).union(
    ("linear", "bilinear", "matmul", "mm", "bmm", "addmm", "baddbmm", "einsum", "tensordot"),
    ("_grouped_mm", "grouped_mm", "grouped_mm_fallback"),  # of experts
    ("multi_head_attention_forward", "gru", "lstm", "rnn_tanh", "rnn_relu"),
    ("gru_cell", "lstm_cell", "rnn_tanh_cell", "rnn_relu_cell"),
)
_PERMUTATIONS = frozenset(("transpose", "permute", "movedim", "moveaxis", "swapaxes", "swapdims", "t", "adjoint"))
_PERMUTED = tuple(getattr(Tensor, name).__get__ for name in ("T", "mT", "H", "mH"))  # attributes, all of one name
_CONCATENATIONS = frozenset(("cat", "concat", "concatenate"))


@dataclass(frozen=True)
class Rectified:
    """What enters one call of a rectifier, or the part of it that one layer made.

    Attributes:
        layer: Name of the module whose weight made it: the last one on the longest path from the input. So after a
            residual addition it is the last layer of the block, never the shortcut.
        kind: The rectifier, as its function is called: ``"relu"``, ``"relu6"``, ``"gelu"``. ``Hardtanh(0, 6)`` is
            ``"relu6"``.
        values: The pre-activations, before an in-place rectifier overwrites them. After a concatenation of channels,
            only the layer's own.
        dim: Their channel dimension.
        ceiling: The value above which the output is constant; infinite for most.
    """

    layer: str
    kind: str
    values: Tensor
    dim: int
    ceiling: float = math.inf


@contextmanager
def watching_rectifiers(model: nn.Module, listener: Callable[[Rectified], None]) -> Iterator[None]:
    """Call the listener before every rectifier that the model runs during the block, once for each layer it follows.

    Known are ReLU, ReLU6, ``Hardtanh(0, ...)``, LeakyReLU, PReLU, RReLU, GELU, SiLU, Hardswish and ELU, as modules and
    as functions of torch, and modules that compute one of them by hand; see `rectifiers_by_hand`. A rectifier of a
    single number, or that no weighted layer precedes, is passed over, and so is what torch does not let one see: within
    a scripted module, a recurrent layer, or an autograd function of one's own that stands in no such module.

    The channel dimension is the layer's output dimension, which is the last one except for convolutions, and follows
    transposition, pooling and reshaping. Where a reshape splits or merges it, the part with its first element counts.

    Several layers precede a rectifier where channels are concatenated (``torch.cat``). They are told apart as long as
    the channels stay whole and in order: through normalisation, pooling, dropout, rectifiers, permuted dimensions and
    flattening. Where their number changes otherwise, as in a slice, all are the deepest layer's, and in a sum all are
    the deepest term's. An index that shuffles channels goes unnoticed.

    Modules compiled by `torch.compile` run eagerly meanwhile, and attention without its fast path.

    Args:
        model: Its parameters of two dimensions or more are the weights; parametrized ones too.
        listener: Must not change the values.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        >>> with watching_rectifiers(model, lambda r: print(r.layer, r.kind, tuple(r.values.shape), r.dim)):
        ...     _ = model(torch.randn(2, 1, 5, 5))
        0 relu (2, 4, 3, 3) 1
    """
    watch = _Watch(model, listener)
    with watching_inputs(model, watch.by_hand, watch.enter), watching(model, watch.by_hand, watch.leave), watch:
        yield


class _Watch(FunctionMode):
    """Follows which layer each tensor comes from; a tensor that is gone is forgotten."""

    def __init__(self, model: nn.Module, listener: Callable[[Rectified], None]) -> None:
        super().__init__()
        self.listener = listener
        self.origins: MutableMapping[Tensor, Origin] = WeakTensorKeyDictionary()
        self.weights: MutableMapping[Tensor, str] = WeakTensorKeyDictionary()
        self.by_hand = rectifiers_by_hand(model)
        self._inside = 0  # so many of these modules are running
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                self.weights[parameter] = owner_of(name)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").rstrip("_")  # relu_ works in place
        if name in _RECTIFIERS and not self._inside:
            self._tell(name, args, kwargs)
        out = func(*args, **kwargs)
        with suppress(Exception):
            self._follow(func, name, args, kwargs, list(tensors_in((out,))))
        return out

    def enter(self, name: str, call: Call) -> None:
        """Tell of a module that is a rectifier, before it runs."""
        if not self._inside:
            self._tell(self.by_hand[name], call.args, call.kwargs)
        self._inside += 1

    def leave(self, name: str, call: Call) -> None:
        """What such a module puts out comes from where its input does."""
        self._inside -= 1
        with suppress(Exception):
            self.origins[call.output] = self.origins[call.first]

    def _tell(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        heard: list[Rectified] = []
        with suppress(Exception):  # what can't be followed has no origin; the network's pass goes on
            heard = self._heard(name, args, kwargs)
        for call in heard:
            self.listener(call)

    def _follow(
        self, func: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], outputs: list[Tensor]
    ) -> None:
        if not outputs:
            return
        inputs = list(tensors_in((*args, *kwargs.values())))
        if name in _PRODUCTS and (layer := self._layer_of(inputs)) is not None:
            depth = 1 + max((self.origins[x].deepest.depth for x in inputs if x in self.origins), default=0)
            for output in outputs:
                dim = max(0, output.ndim - 1 - _CONVOLUTIONS.get(name, 0))
                self.origins[output] = Origin.of(layer, depth, dim, output.shape)
        else:
            self._hand_on(func, name, args, kwargs, inputs, outputs)

    def _heard(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Rectified]:
        values = args[0] if args else kwargs.get("input")
        lower, ceiling = 0.0, math.inf
        if name == "hardtanh":
            lower, ceiling = _bounds(*args, **kwargs)
        if name == "relu6" or (lower, ceiling) == (0, 6):
            name, ceiling = "relu6", 6.0
        if lower != 0 or not isinstance(values, Tensor) or values.ndim == 0 or values not in self.origins:
            return []
        pieces, dim, _ = self.origins[values].moved(values.shape)  # whose data may have been set anew
        found = plain(values.detach())
        parts = [found]  # of any layout, such as a sparse one
        if len(pieces) > 1:
            parts = list(found.split_with_sizes([piece.size for piece in pieces], dim))
        return [
            Rectified(piece.layer, name, part, dim, float(ceiling))
            for piece, part in zip(pieces, parts, strict=True)
            if piece.layer is not None
        ]

    def _layer_of(self, inputs: Iterable[Tensor]) -> str | None:
        """The layer that the last of the weights among the inputs belongs to; a query before it may be learned too."""
        return next((self.weights[x] for x in reversed(list(inputs)) if x in self.weights), None)

    def _hand_on(
        self,
        func: Any,
        name: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        inputs: list[Tensor],
        outputs: list[Tensor],
    ) -> None:
        """Whatever is made of activations comes from the deepest of them, and what is made of weights is one."""
        known = [x for x in inputs if x in self.origins]
        if known:
            source = max(known, key=lambda x: self.origins[x].deepest.depth)  # the first on ties
            for output in outputs:
                self.origins[output] = self._made_of(source, func, name, args, kwargs, output)
        elif (owner := self._layer_of(inputs)) is not None:
            for output in outputs:
                self.weights[output] = owner

    def _made_of(
        self, source: Tensor, func: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor
    ) -> Origin:
        origin, shape = self.origins[source], output.shape
        if (name in _PERMUTATIONS or func in _PERMUTED) and args and source is args[0]:
            return Origin(origin.pieces, _permuted(func, args, kwargs, origin.dim), shape)
        if name in _CONCATENATIONS:
            operands, dim = _concatenated(*args, **kwargs)
            if dim % output.ndim == origin.dim:
                return joined(((x.shape, self.origins.get(x)) for x in operands), origin.dim, shape)
        if name in _PRODUCTS:
            return origin.mixed(moved_dim(origin.dim, origin.shape, shape), shape)
        return origin.moved(shape)


def _bounds(input: Any, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> tuple[float, float]:  # noqa: A002
    """The bounds of `torch.nn.functional.hardtanh`, by its signature."""
    return min_val, max_val


def _concatenated(
    tensors: Iterable[Tensor], dim: int = 0, *, axis: int | None = None, out: Tensor | None = None
) -> tuple[list[Tensor], int]:
    """The operands and the dimension of `torch.cat`, by its signature; it skips operands of shape (0,)."""
    return [x for x in tensors if x.shape != (0,)], dim if axis is None else axis


def _permuted(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], dim: int) -> int:
    """Where a function that permutes dimensions puts one: each of the probe's has its number for its size."""
    probe = torch.empty(tuple(range(args[0].ndim)), device="meta")
    return list(func(probe, *args[1:], **kwargs).shape).index(dim)
