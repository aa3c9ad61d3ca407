"""What a network is called with: one tensor, or several arguments, some of them with the samples of a batch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from reflow_lightning.running.batches import move
from reflow_lightning.running.compat.torch import tree_leaves, tree_map_only
from reflow_lightning.running.forward import Forward, batch_arguments, batch_input
from reflow_lightning.running.hooks import Call
from reflow_lightning.running.own import own

Inputs = tuple[Any, ...]
"""The positional arguments of one call of a network."""

Arguments = Inputs | dict[str, Any]
"""The arguments of one call of a network: all of them by position, or all of them by name."""

Example = Tensor | Inputs | Mapping[str, Any]
"""What users give as an example: one input, a tuple of all positional arguments, or a batch such as a tokenizer's."""

A = TypeVar("A", Inputs, dict[str, Any], Arguments)


def as_arguments(example_input: Tensor | Inputs, device: torch.device) -> Inputs:
    """The positional arguments of a call, with their tensors on a device.

    Args:
        example_input: A tensor, or a tuple of all positional arguments. They may nest tensors in lists, tuples and
            dictionaries; what is no tensor stays as it is.
        device: The network's.

    Example:
        >>> as_arguments(torch.ones(1), torch.device("cpu")), as_arguments((torch.ones(1), 2), torch.device("cpu"))
        ((tensor([1.]),), (tensor([1.]), 2))
    """
    given = example_input if isinstance(example_input, tuple) else (example_input,)
    return tuple(move(value, device) for value in given)


def example_arguments(model: nn.Module, example_input: Example, device: torch.device) -> Arguments:
    """The arguments of a call with an example, with their tensors on a device.

    Args:
        model: The network.
        example_input: A tensor, a tuple of all positional arguments, or a mapping, which is read just as the default
            forward reads a batch: see `batch_arguments`.
        device: The network's.

    Example:
        >>> example = {"input1": torch.ones(1), "input2": torch.ones(1)}
        >>> example_arguments(nn.Bilinear(1, 1, 1), example, torch.device("cpu"))
        {'input1': tensor([1.]), 'input2': tensor([1.])}
    """
    if not isinstance(example_input, Mapping):
        return as_arguments(example_input, device)
    named = batch_arguments(model, example_input)
    return move(named, device) if named else as_arguments(batch_input(example_input), device)


def split(arguments: Arguments) -> tuple[Inputs, dict[str, Any]]:
    """The positional and the named arguments of a call.

    Example:
        >>> split((1, 2)), split({"x": 1})
        (((1, 2), {}), ((), {'x': 1}))
    """
    return ((), arguments) if isinstance(arguments, dict) else (arguments, {})


def called(function: Callable[..., Any], arguments: Arguments) -> Any:
    """What a function or a network puts out on arguments.

    Raises:
        TypeError: If it gets a mapping that it does not take, since no key is known.

    Example:
        >>> called(dict, {"x": 1}), called(max, (1, 2))
        ({'x': 1}, 2)
    """
    if isinstance(arguments, dict):
        return function(**arguments)
    try:
        return function(*arguments)
    except (TypeError, AttributeError) as error:
        if len(arguments) != 1 or not isinstance(arguments[0], Mapping):
            raise
        raise TypeError(
            f"{type(function).__name__} got the mapping as one argument, and failed ({type(error).__name__}: {error}): "
            f"its forward takes none of the keys {sorted(map(str, arguments[0]))} by name; rename them, or pass the "
            "arguments as a tuple"
        ) from error


def arguments_of_calls(module: nn.Module, calls: Sequence[Call]) -> list[Arguments]:
    """The arguments of calls of a module, in one form for all: by name where its forward pass has names for them.

    Args:
        module: Any module.
        calls: Its calls.

    Raises:
        ValueError: If calls differ in which arguments they give, or the forward pass takes both any number of
            positional arguments and some by name.

    Example:
        >>> calls = [Call((1, 2), {}), Call((3,), {"input2": 4})]
        >>> arguments_of_calls(nn.Bilinear(1, 1, 1), calls)
        [{'input1': 1, 'input2': 2}, {'input1': 3, 'input2': 4}]
    """
    signature = inspect.signature(module.forward)
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    found: list[Arguments] = [call.args for call in calls]
    if kinds.isdisjoint({inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY}):
        names = list(signature.parameters)
        found = [dict(zip(names, call.args, strict=False)) | dict(call.kwargs) for call in calls]
    elif any(call.kwargs for call in calls):
        raise ValueError(f"{type(module).__name__} takes arguments by position alone and others by name")
    if len({tuple(given) if isinstance(given, dict) else len(given) for given in found}) > 1:
        raise ValueError(f"{type(module).__name__} is called with other arguments from call to call")
    return found


def tensors_of(arguments: Arguments) -> list[Tensor]:
    """The tensors among the arguments, in order.

    Example:
        >>> tensors_of((torch.ones(1), 2, [torch.zeros(1)]))
        [tensor([1.]), tensor([0.])]
    """
    return [leaf for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)]


def batch_size(arguments: Arguments) -> int:
    """The number of samples: the length of the first tensor that has one, or 1.

    Example:
        >>> batch_size((0.5, torch.zeros(8, 3))), batch_size((torch.tensor(1.0),))
        (8, 1)
    """
    return next((len(tensor) for tensor in tensors_of(arguments) if tensor.ndim), 1)


def cast(arguments: A, old: torch.dtype, new: torch.dtype) -> A:
    """The arguments with the tensors of one type in another.

    Example:
        >>> cast((torch.ones(1), torch.arange(1)), torch.float32, torch.float16)
        (tensor([1.], dtype=torch.float16), tensor([0]))
    """
    found: A = tree_map_only(Tensor, lambda t: t.to(new) if t.dtype == old else t, arguments)
    return found


def check_example(arguments: Arguments) -> None:
    """Check that an example tells something.

    Raises:
        ValueError: If it has no sample, or holds NaN or ``None``.
    """
    tensors = tensors_of(arguments)
    if tensors and (batch_size(arguments) == 0 or not any(tensor.numel() for tensor in tensors)):
        raise ValueError(f"example_input of shape {tuple(tensors[0].shape)} is empty: pass at least one sample")
    if any(bool(tensor.isnan().any()) for tensor in tensors):
        raise ValueError("example_input holds NaN, with which nothing can be compared: pass real data")
    values = arguments.values() if isinstance(arguments, dict) else arguments
    if any(value is None for value in values):
        raise ValueError("example_input holds None: leave out the arguments that keep their defaults")


def arguments_of(model: nn.Module, batch: Any, example: Arguments, forward: Forward | None) -> Arguments:
    """What a network is called with on a batch.

    Args:
        model: The network.
        batch: From a loader.
        example: The arguments of another call. They tell how many the network takes, or which by name, where
            ``forward`` does not say so.
        forward: ``(model, batch) -> anything``, which runs the model.

    Raises:
        ValueError: If the batch lacks an argument that the example gives by name.
    """
    if forward is not None:
        forward(recorder := _Recorder(model), own(batch))
        return recorder.arguments
    if not isinstance(example, dict):
        return (batch_input(batch),) if len(example) == 1 else tuple(batch[: len(example)])
    given = batch_arguments(model, batch)
    if lacking := [name for name in example if name not in given]:
        raise ValueError(
            f"a batch lacks {', '.join(lacking)}, which example_input gives: let both have the same keys, or pass "
            "forward=lambda model, batch: ... that runs the model on a batch"
        )
    return {name: given[name] for name in example}


class _Recorder(nn.Module):
    """Runs a network, and notes what it is called with."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.arguments: Arguments = ()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.arguments = own(arguments_of_calls(self.model, [Call(args, kwargs)])[0] if kwargs else args)
        return self.model(*args, **kwargs)
