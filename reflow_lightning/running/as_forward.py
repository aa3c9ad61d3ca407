"""Forward passes that are written as text, for YAML and the command line."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from typing import Any, Protocol

from torch import nn

from reflow_lightning.running.forward import Forward, default_forward
from reflow_lightning.running.traces import parameters_kept

STEPS = ("training_step", "validation_step", "test_step", "predict_step")
"""Methods of a LightningModule that run it on a batch."""


class RunsModel(Protocol):
    """An object that is called as `Forward` says."""

    def __call__(self, model: nn.Module, batch: Any, /) -> Any:
        """Run the model on the batch."""


AnyForward = RunsModel | Forward | str
"""A forward pass, or its text; see `as_forward`.

The text comes last, and an object first: readers of YAML such as jsonargparse try the types in this order, take
everything for a text, and write a text as it is only where an object could stand.
"""


def as_forward(forward: AnyForward | None) -> Forward:
    """The forward pass that a user has named, written, or given as a function.

    Args:
        forward: A function ``(model, batch) -> anything``; the name of a step of a LightningModule, such as
            ``"training_step"``; what the model is called with, such as ``"batch[1]"``, ``"batch['image']"``,
            ``"batch.x"``, ``"*batch[:2]"`` or ``"**batch"``, separated by commas; ``None`` for the default.

    Raises:
        ValueError: If it is none of these.

    Example:
        >>> import torch
        >>> forward = as_forward("batch[1]")
        >>> forward(nn.Identity(), ("target", torch.ones(1)))
        tensor([1.])
        >>> as_forward("batch[")
        Traceback (most recent call last):
        ValueError: forward='batch[' must be a function (model, batch), 'training_step', ... or what the model is...
    """
    if forward is None:
        return default_forward
    if not isinstance(forward, str):
        if not callable(forward):
            raise ValueError(_refusal(forward))
        return forward
    return _Step(forward) if forward in STEPS else _Call(forward)


class _Step:
    """Runs a step of a LightningModule on a batch, as if it were the first; what it writes into weights is undone."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, model: nn.Module, batch: Any) -> Any:
        step: Callable[..., Any] | None = getattr(model, self.name, None)
        if step is None:
            raise ValueError(f"forward={self.name!r}, but {type(model).__name__} has no such method")
        taken = inspect.signature(step).parameters.values()
        given: list[Any] = [batch, 0, 0][: len([p for p in taken if p.default is p.empty and p.kind in _BY_POSITION])]
        with parameters_kept(model):  # a step may move an average, or clip weights
            return step(*given)

    def __repr__(self) -> str:
        return repr(self.name)


_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class _Call:
    """Calls the model with parts of a batch, as a text says. Nothing of the text is executed."""

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            call = ast.parse(f"model({text})", mode="eval").body
        except SyntaxError as error:
            raise ValueError(_refusal(text)) from error
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or not (call.args or call.keywords):
            raise ValueError(_refusal(text))
        self._args, self._keywords = call.args, call.keywords
        for part in (*call.args, *(keyword.value for keyword in call.keywords)):
            _check(part.value if isinstance(part, ast.Starred) else part, text)

    def __call__(self, model: nn.Module, batch: Any) -> Any:
        args: list[Any] = []
        for part in self._args:
            if isinstance(part, ast.Starred):
                args.extend(_part(part.value, batch))
            else:
                args.append(_part(part, batch))
        named: dict[str, Any] = {}
        for keyword in self._keywords:
            value = _part(keyword.value, batch)
            named |= dict(value) if keyword.arg is None else {keyword.arg: value}
        return model(*args, **named)

    def __repr__(self) -> str:
        return repr(self.text)


def _check(part: ast.expr, text: str) -> None:
    """Check that a part of a batch is written with indices, slices, keys and attributes alone."""
    if isinstance(part, ast.Name) and part.id == "batch":
        return None
    if isinstance(part, ast.Attribute) and not part.attr.startswith("_"):
        return _check(part.value, text)
    if isinstance(part, ast.Subscript):
        bounds = part.slice
        indices = (bounds.lower, bounds.upper, bounds.step) if isinstance(bounds, ast.Slice) else (bounds,)
        if all(index is None or _is_constant(index) for index in indices):
            return _check(part.value, text)
    raise ValueError(_refusal(text))


def _is_constant(index: ast.expr) -> bool:
    try:
        return isinstance(ast.literal_eval(index), (int, str))
    except ValueError:
        return False


def _part(part: ast.expr, batch: Any) -> Any:
    if isinstance(part, ast.Attribute):
        return getattr(_part(part.value, batch), part.attr)
    if isinstance(part, ast.Subscript):
        bounds = part.slice
        if isinstance(bounds, ast.Slice):
            ends = [None if end is None else ast.literal_eval(end) for end in (bounds.lower, bounds.upper, bounds.step)]
            return _part(part.value, batch)[slice(*ends)]
        return _part(part.value, batch)[ast.literal_eval(bounds)]
    return batch


def _refusal(given: object) -> str:
    return (
        f"forward={given!r} must be a function (model, batch), {', '.join(map(repr, STEPS))}, or what the model is "
        "called with, such as 'batch[1]', \"batch['image']\", '*batch[:2]' or '**batch'"
    )
