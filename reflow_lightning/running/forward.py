"""How a model is run on a batch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

Forward = Callable[[nn.Module, Any], Any]
"""``(model, batch) -> anything``: runs the model on a batch."""

_INPUT_KEYS = ("x", "image", "input", "pixel_values", "input_ids")
_TOKENIZER_KEYS = (
    "input_ids",
    "attention_mask",
    "token_type_ids",
    "position_ids",
    "decoder_input_ids",
    "decoder_attention_mask",
)


def batch_input(batch: Any) -> Any:
    """The part of a batch that a model with one input takes.

    The first element of a tuple or list, ``batch["x" | "image" | "input" | "pixel_values" | "input_ids"]`` of a
    mapping, else the batch.

    Example:
        >>> batch_input(("images", "labels")), batch_input({"image": "images"})
        ('images', 'images')
    """
    if isinstance(batch, (tuple, list)) and batch:
        return batch[0]
    if isinstance(batch, Mapping):
        return next((batch[key] for key in _INPUT_KEYS if key in batch), batch)
    return batch


def named_part(batch: Any) -> Mapping[str, Any]:
    """The mapping that a batch is, or that comes first in it, as before labels; else an empty one.

    Example:
        >>> named_part(({"input_ids": "words"}, "labels")), named_part(("words", "labels"))
        ({'input_ids': 'words'}, {})
    """
    first = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    return first if isinstance(first, Mapping) else {}


def batch_arguments(model: nn.Module, batch: Any) -> dict[str, Any]:
    """What the default forward passes to the model by name.

    All of a mapping, or of one that comes first in a tuple, if its keys are all parameters of the model's forward. Of
    one with ``"input_ids"``, such as a tokenizer gives, those that are, so that a key that only the data set needs is
    left out. Else nothing.

    A wrapper of another model takes any name. There the names of the one module within count; if it holds several
    modules, the names that tokenizers give.

    Example:
        >>> batch_arguments(nn.Bilinear(2, 2, 1), {"input1": 1, "input2": 2}), batch_arguments(nn.ReLU(), {"image": 1})
        ({'input1': 1, 'input2': 2}, {})
    """
    given, names = named_part(batch), _names(model)
    accepted = {key: value for key, value in given.items() if key in names}
    return accepted if len(accepted) == len(given) or "input_ids" in accepted else {}


def default_forward(model: nn.Module, batch: Any) -> Any:
    """Run the model on `batch_arguments` of a batch, or if there are none on its `batch_input`.

    Raises:
        TypeError: If the model does not take them, or fails on an input that is no tensor.
    """
    arguments, inputs = batch_arguments(model, batch), batch_input(batch)
    try:
        return model(**arguments) if arguments else model(inputs)
    except Exception as error:
        refused = isinstance(error, TypeError) if arguments else not isinstance(inputs, Tensor)
        call = f"model({', '.join(f'{key}=...' for key in arguments) or 'inputs'})"
        if not refused and not isinstance(error, NotImplementedError):
            error.add_note(f"This was the default forward, {call}; pass forward=... to run it otherwise")
            raise
        given = f"as {call}" if arguments else f"with a {type(inputs).__name__}"
        keys = f" with keys {sorted(map(str, batch))}" if isinstance(batch, Mapping) else ""
        raise TypeError(
            f"the default forward called {type(model).__name__} {given} from a batch of type "
            f"{type(batch).__name__}{keys}, and it failed ({type(error).__name__}: {error}): "
            "pass forward=lambda model, batch: ... that runs the model on such a batch"
        ) from error


def _names(model: nn.Module) -> set[str]:
    """The names that a model's forward takes."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # a scripted module, or what else is not written in Python
        return set()
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        return named
    within = list(model.children())
    return _names(within[0]) if not named and len(within) == 1 else named.union(_TOKENIZER_KEYS)
