"""What the steps of a traced graph are, by one name for a module, a function and a method that do the same."""

from __future__ import annotations

import builtins
import operator
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.dropout import _DropoutNd

ACTIVATIONS: Mapping[str, tuple[float, ...]] = {
    "relu": (),
    "relu6": (),
    "leaky_relu": (0.0,),
    "prelu": (0.0,),
    "hardtanh": (),
    "hardsigmoid": (),
    "sigmoid": (),
    "tanh": (),
    "elu": (0.0,),
    "selu": (),
    "celu": (0.0,),
    "softplus": (),
    "softsign": (),
    "logsigmoid": (),
    "clamp": (),
    "gelu": (-0.7517915246935645, -0.7524614220710162),  # exact, and by tanh
    "silu": (-1.278464542761074,),
    "mish": (-1.1924058,),
    "hardswish": (-1.5,),
    "identity": (),
}
"""Functions of one value, with the points where they turn: between these they are monotone."""

_MOVES = """
    flatten view reshape permute transpose swapaxes movedim contiguous getitem squeeze unsqueeze expand cat stack chunk
    split unbind pad clone narrow t flip detach
"""
MOVES = frozenset(_MOVES.split())
"""Steps that only place values elsewhere, or repeat them, or put constants beside them."""

_POOLS = """
    max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d interpolate
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    pad1d pad2d pad3d
"""
POOLS = frozenset(_POOLS.split())
"""Monotone steps within a channel, which is dimension 1."""

REDUCTIONS = frozenset(["mean", "sum", "amax", "amin"])
PAIRS = frozenset(["index_add", "add", "sub", "mul", "truediv", "maximum", "minimum"])
SHAPES = frozenset(["size", "dim", "getattr", "ndimension", "numel", "len"])
"""Steps that tell a size, if what they put out is no tensor."""

_MODULES: Mapping[str, str] = {
    "ReLU": "relu",
    "ReLU6": "relu6",
    "LeakyReLU": "leaky_relu",
    "PReLU": "prelu",
    "Hardtanh": "hardtanh",
    "Hardsigmoid": "hardsigmoid",
    "Hardswish": "hardswish",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "ELU": "elu",
    "SELU": "selu",
    "CELU": "celu",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "LogSigmoid": "logsigmoid",
    "GELU": "gelu",
    "SiLU": "silu",
    "Mish": "mish",
    "Identity": "identity",
    "Flatten": "flatten",
    "Upsample": "interpolate",
    **{f"{kind}Pool{n}d": f"{name}_pool{n}d" for kind, name in (("Max", "max"), ("Avg", "avg")) for n in (1, 2, 3)},
    **{
        f"{kind}Pad{n}d": f"pad{n}d"
        for kind in ("Zero", "Constant", "Reflection", "Replication", "Circular")
        for n in (1, 2, 3)
    },
    **{f"AdaptiveAvgPool{n}d": f"adaptive_avg_pool{n}d" for n in (1, 2, 3)},
    **{f"AdaptiveMaxPool{n}d": f"adaptive_max_pool{n}d" for n in (1, 2, 3)},
}
_SAME = {
    "swish": "silu",
    "concat": "cat",
    "concatenate": "cat",
    "swapdims": "swapaxes",
    "multiply": "mul",
    "div": "truediv",
    "true_divide": "truediv",
    "divide": "truediv",
    "subtract": "sub",
    "clamp_min": "clamp",
    "clip": "clamp",
    "_adaptive_avg_pool2d": "adaptive_avg_pool2d",
}


_RANDOM: Mapping[str, int] = {
    **dict.fromkeys(["dropout", "alpha_dropout", "feature_alpha_dropout", "dropout1d", "dropout2d", "dropout3d"], 2),
    "stochastic_depth": 3,
}
"""Functions that do nothing if they are told that this is no training, and where among their arguments that stands."""

_OWNERS = (operator, builtins, torch, functional, torch._C._nn)


class Steps:
    """The steps of a graph by name, and their modules.

    Args:
        traced: The graph.

    Attributes:
        at: The step that is looked at, or was when something failed, if there is one.

    Example:
        >>> from reflow_lightning.collapse.graph.tracing import trace
        >>> traced = trace(nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.ReLU()))
        >>> steps = Steps(traced)
        >>> [steps.name(node) for node in traced.graph.nodes]
        ['placeholder', 'linear', 'identity', 'relu', 'output']
    """

    def __init__(self, traced: fx.GraphModule) -> None:
        self.traced = traced
        self.at: fx.Node | None = None
        self.modules = dict(traced.named_modules())
        self._calls = Counter(node.target for node in traced.graph.nodes if node.op in ("call_module", "get_attr"))
        held = [id(p) for module in traced.modules() for p in module._parameters.values() if p is not None]
        got = [id(self.value(node)) for node in traced.graph.nodes if node.op == "get_attr"]
        self._holders = Counter([*held, *got])

    def __iter__(self) -> Iterator[Any]:
        """The steps as they are now, in order."""
        for node in list(self.traced.graph.nodes):
            self.at = node
            yield node
        self.at = None

    def module(self, node: fx.Node) -> Any:
        """The module that a step calls."""
        return self.modules[str(node.target)]

    def value(self, node: fx.Node) -> Any:
        """The parameter, buffer or other attribute that a step gets."""
        found: Any = self.traced
        for part in str(node.target).split("."):
            found = getattr(found, part)
        return found

    def name(self, node: fx.Node) -> str:
        """What a step does; ``"opaque"`` for what is not understood, used several times or shares its parameters."""
        if node.op == "call_module":
            return self._of_module(self.module(node), node)
        if node.op == "call_function":
            return _of_function(node)
        if node.op == "call_method":
            return _known(_SAME.get(str(node.target), str(node.target)))
        return node.op

    def function(self, node: fx.Node) -> Callable[..., Any]:
        """What runs a step, given its arguments."""
        if node.op == "call_module":
            found: Callable[..., Any] = self.module(node)
            return found
        if callable(node.target):
            return node.target
        name = str(node.target)
        return lambda first, *rest, **kwargs: getattr(first, name)(*rest, **kwargs)

    def is_shared(self, node: fx.Node) -> bool:
        """Whether other steps call the same module or get the same attribute, by this name or another."""
        held_twice = node.op == "get_attr" and self._holders[id(self.value(node))] > 2  # here, and where it belongs
        return self._calls[node.target] > 1 or held_twice

    def _of_module(self, module: Any, node: fx.Node) -> str:
        own = [p for p in module._parameters.values() if p is not None]
        if node.kwargs or len(node.args) != 1 or any(not p.is_floating_point() for p in own):
            return "opaque"
        if own and (self.is_shared(node) or any(self._holders[id(p)] > 1 for p in own)):
            return "opaque"
        if "parametrizations" in module._modules or _has_hooks(module):
            return "opaque"
        if type(module) in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
            return "conv"
        if type(module) is nn.Linear:
            return "linear"
        if not type(module).__module__.startswith("torch.nn"):
            return "opaque"
        if isinstance(module, _DropoutNd):
            return "identity"
        if isinstance(module, _BatchNorm):
            return "opaque" if module.running_var is None else "batchnorm"
        if getattr(module, "mode", None) == "bicubic" or getattr(module, "return_indices", False):
            return "opaque"  # neither is monotone
        return _MODULES.get(type(module).__name__, "opaque")


def _of_function(node: fx.Node) -> str:
    """The name of a function, if it is torch's or Python's; a user's may do something else under the same name."""
    own = str(getattr(node.target, "__name__", "opaque"))
    name = own.lstrip("_")
    if not any(getattr(owner, own, None) is node.target for owner in _OWNERS):
        known = name in _RANDOM and str(getattr(node.target, "__module__", "")).startswith("torchvision.")
        if not known:
            return "opaque"
    if name in _RANDOM:
        position = _RANDOM[name]
        positional = node.args[position] if len(node.args) > position else None
        told = node.kwargs.get("training", node.kwargs.get("train", positional))
        return "identity" if told is False else "opaque"
    if (
        name == "interpolate"
        and node.kwargs.get("mode", node.args[3] if len(node.args) > 3 else "nearest") == "bicubic"
    ):
        return "opaque"
    return _known(_SAME.get(name, name))


def _known(name: str) -> str:
    known = name in ACTIVATIONS or name in MOVES or name in POOLS or name in REDUCTIONS or name in PAIRS
    return name if known or name in SHAPES else "opaque"


def _has_hooks(module: Any) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def is_weighted(module: Any) -> bool:
    """Whether a module multiplies by weights: convolution or linear."""
    return isinstance(module, (nn.Linear, _ConvNd)) and not isinstance(module, _ConvTransposeNd)


def broadcast(*values: Tensor) -> list[Tensor]:
    """Views of tensors at the shape that they have together."""
    return cast("list[Tensor]", torch.broadcast_tensors(*values))  # type: ignore[no-untyped-call]


def after_inputs(traced: fx.GraphModule) -> set[fx.Node]:
    """The steps that have to do with an input: only these put out one value a sample."""
    found: set[fx.Node] = set()
    for node in traced.graph.nodes:
        if node.op == "placeholder" or not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found
