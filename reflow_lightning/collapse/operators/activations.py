"""Functions of one value: activation functions, and the identity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional

from reflow_lightning.collapse.edits import parameter_like
from reflow_lightning.collapse.facts.following import Following
from reflow_lightning.collapse.facts.groups import labels_of
from reflow_lightning.collapse.facts.intervals import Bounds, of_activation
from reflow_lightning.collapse.facts.operator import Operator
from reflow_lightning.collapse.facts.removal import Shrinking
from reflow_lightning.collapse.facts.step import Step
from reflow_lightning.collapse.graph.kind import OPAQUE
from reflow_lightning.collapse.graph.steps import Steps
from reflow_lightning.collapse.operators.pieces import PIECES, Piece, straight

TURNS: Mapping[str, tuple[float, ...]] = {
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
"""The points where a function turns: between these it is monotone."""

_CLASSES = """
    ReLU ReLU6 Hardtanh Hardsigmoid Sigmoid Tanh ELU SELU CELU Softplus Softsign LogSigmoid GELU SiLU Mish Hardswish
"""


class Activation(Operator):
    """A function of one value."""

    is_activation: bool = True
    functions: Mapping[str, str] = {
        **{name: name for name in TURNS if name not in ("prelu", "identity")},
        **dict.fromkeys(["clamp_min", "clip"], "clamp"),
        "swish": "silu",
    }
    modules: Mapping[str, str] = {**{name: name.lower() for name in _CLASSES.split()}, "LeakyReLU": "leaky_relu"}

    def bounds(self, step: Step) -> Any:
        """The least and the greatest value at the ends and at the points where it turns."""
        given = step.argument(0)
        if not step.reads_tensors or not isinstance(given, Bounds):
            return step.nothing
        return of_activation(step.run, TURNS[step.name], step.args, step.kwargs)

    def channels(self, step: Step, follow: Following) -> Any:
        """The channels of the input."""
        given = labels_of((step.args, step.kwargs))
        if isinstance(step.value, Tensor) and len(given) == 1:
            return given[0]
        return super().channels(step, follow)

    def pieces(self, steps: Steps, node: fx.Node) -> list[Piece]:
        """The straight pieces of the function; for GELU and SiLU they are right to 1e-8.

        Example:
            >>> from torch import nn
            >>> from reflow_lightning.collapse.graph.tracing import trace
            >>> traced = trace(nn.Sequential(nn.ReLU6()))
            >>> pieces = Activation().pieces(Steps(traced), list(traced.graph.nodes)[1])
            >>> [(piece.low, piece.high, piece.slope.item()) for piece in pieces]
            [(-inf, 0.0, 0.0), (0.0, 6.0, 1.0), (6.0, inf, 0.0)]
        """
        name = steps.name(node)
        return PIECES[name](steps, node) if name in PIECES else []


class PReLU(Activation):
    """A rectifier with a slope for each channel. Where the slope comes from elsewhere, nothing is known."""

    functions: Mapping[str, str] = {"prelu": "prelu"}
    modules: Mapping[str, str] = {"PReLU": "prelu"}

    def bounds(self, step: Step) -> Any:
        """See `Activation`."""
        if step.node.op != "call_module":
            return step.nothing
        run = partial(functional.prelu, weight=step.module.weight.double().cpu())
        return of_activation(run, TURNS["prelu"], step.args, step.kwargs)

    def channels(self, step: Step, follow: Following) -> Any:
        """See `Activation`."""
        if step.node.op != "call_module":
            return super().channels(step, follow)
        return follow.channelwise(step)

    def shrink(self, node: fx.Node, shrinking: Shrinking) -> None:
        """Leave out the slopes of those channels."""
        stays = shrinking.stays(node)
        if stays is None or node.op != "call_module":
            return
        module = shrinking.steps.module(node)
        weight: Tensor = module.weight
        if weight.numel() > 1:
            module.weight = parameter_like(weight[stays.to(weight.device)], weight)
            module.num_parameters = int(stays.sum())

    def pieces(self, steps: Steps, node: fx.Node) -> list[Piece]:
        """See `Activation`."""
        if node.op != "call_module":
            return []
        slope = steps.module(node).weight.detach().double().cpu()
        return [Piece(-math.inf, 0.0, slope, torch.zeros(1, dtype=torch.float64)), straight(0.0, math.inf, 1.0)]


class Power(Activation):
    """A power whose exponent is a whole number of at least 1, as GELU is written in GPT-2."""

    functions: Mapping[str, str] = {"pow": "pow"}
    modules: Mapping[str, str] = {}

    def bounds(self, step: Step) -> Any:
        """See `Activation`."""
        given, exponent = step.first, step.argument(1, "exponent")
        is_whole = isinstance(exponent, (int, float)) and exponent >= 1 and exponent == int(exponent)
        if not step.reads_tensors or not isinstance(given, Bounds) or not is_whole:
            return step.nothing
        return of_activation(step.run, () if exponent % 2 else (0.0,), step.args, step.kwargs)


_DROPOUTS = ["dropout", "alpha_dropout", "feature_alpha_dropout", "dropout1d", "dropout2d", "dropout3d"]
_TRAINING: Mapping[str, int] = {**dict.fromkeys(_DROPOUTS, 2), "stochastic_depth": 3}  # its place among the arguments


class Identity(Activation):
    """Steps that do nothing in eval mode, and functions that are told that this is no training."""

    functions: Mapping[str, str] = dict.fromkeys(_TRAINING, "identity")
    modules: Mapping[str, str] = dict.fromkeys(
        ["Identity", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout"],
        "identity",
    )
    packages: tuple[str, ...] = ("torchvision.",)
    views: frozenset[str] = frozenset(["identity"])

    def called(self, function: str, node: fx.Node) -> str:
        """See `Kind`."""
        position = _TRAINING[function]
        positional = node.args[position] if len(node.args) > position else None
        told = node.kwargs.get("training", node.kwargs.get("train", positional))
        return "identity" if told is False else OPAQUE
