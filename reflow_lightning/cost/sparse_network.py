"""Zeros that save time: linear layers get a sparse weight where that is faster on this machine, with these inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from reflow_lightning.cost.latency import busy_clock, measure_latency
from reflow_lightning.cost.sparse_speeds import SparseReport, attach
from reflow_lightning.cost.sparse_timing import Runs, layer_seconds
from reflow_lightning.cost.sparse_trial import Trial, can_be_sparse, obstacle
from reflow_lightning.layers import find_layers, known_layers
from reflow_lightning.running.arguments import check_example
from reflow_lightning.running.batches import device_of, move
from reflow_lightning.running.compat.torch import inner_of_compiled, own_children
from reflow_lightning.running.copying import dense_copy
from reflow_lightning.running.difference import relative_difference
from reflow_lightning.running.eager import eager
from reflow_lightning.running.forward import Forward, default_forward
from reflow_lightning.running.hooks import watching
from reflow_lightning.running.inference import outside_inference
from reflow_lightning.running.isolation import has_lazy_parameters, isolated_rng, only_training
from reflow_lightning.running.own import own
from reflow_lightning.running.processes import warn


@outside_inference()
@torch.no_grad()
def sparse_linear(
    model: nn.Module,
    example_input: Any,
    *,
    forward: Forward | None = None,
    margin: float = 1.1,
    tolerance: float = 1e-5,
    rounds: int = 15,
) -> nn.Module:
    """Give the linear layers of a pruned network a sparse weight, each only if that is faster here.

    This is tried for every `torch.nn.Linear`, ``Conv1D`` of transformers and 1x1 convolution (without stride, padding
    and groups). They are timed within the network, with the inputs that they get there: it runs by turns with the dense
    weights and with the non-zeros alone (CSR). A layer is swapped if it is faster by the margin, and puts out the same.
    One that is called several times, or under several names, is swapped everywhere.

    What is faster depends on the machine, the number of threads (`torch.set_num_threads`) and the size of the batch:
    measure where the network will run, with a batch as it will get. With one thread other programs on the machine do
    not disturb the measurement; see `reflow_lightning.cost.latency.busy_clock`.

    Layers stay dense, with the reason in the report, if they share a parameter with another layer, compute their weight
    (parametrizations, `torch.nn.utils.prune`), have hooks, are of a class of one's own, in half precision, not on the
    CPU, or not called with this input. So does a layer more than half of whose weights are not zero.

    The result is for inference: sparse weights are constants, and nothing asks for gradients until you say so. These
    flow through sparse layers to what is before them. To train on, load ``result.state_dict()`` into the dense network,
    which it fits.

    Args:
        model: Any module. It is not changed.
        example_input: What the network is called with: a tensor, a tuple of all positional arguments, or a mapping of
            the arguments by name, such as a tokenizer gives.
        forward: ``(model, example_input) -> anything``, for what is called in another way.
        margin: How many times as fast as the dense layer the sparse one must be.
        tolerance: Largest difference between the outputs of both, relative to the largest output of the dense one.
        rounds: How often the networks take turns, and again at the end. A turn takes a hundredth of a second or more.

    Returns:
        A copy in eval mode. `sparse_report` tells the times of each layer and of the whole network before and after.

    Raises:
        TypeError: If the model is no module, or one of `torch.jit`.
        ValueError: If a number is out of range, the example is empty or holds NaN, the model does not run on it, or
            it has lazy layers that never ran.

    Example:
        >>> from reflow_lightning.cost import sparse_report
        >>> model = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 2))
        >>> with torch.no_grad():
        ...     _ = model[0].weight.mul_(torch.rand(512, 512) > 0.98)
        >>> faster = sparse_linear(model, torch.randn(64, 512))
        >>> for layer in sparse_report(faster).layers:
        ...     print(layer.name, layer.reason)
        0...
        2 more than 50% of its weights are not zero
        >>> _ = model.load_state_dict(faster.state_dict())
    """
    _check(model, margin, tolerance, rounds)
    model = inner_of_compiled(model) or model
    example, run = _example(example_input, device_of(model), forward), forward or _forward
    copied = dense_copy(model).eval().requires_grad_(False)
    kind = type(model).__name__
    with _explained(f"{kind} does not run on example_input", "pass what it is called with, or forward=(model, input)"):
        expected = _output(copied, run, example)
    skipped = find_layers(copied).skipped
    trials = {
        name: Trial(layer, obstacle(layer, skipped), tolerance=tolerance)
        for name, layer in known_layers(copied)
        if can_be_sparse(layer)
    }
    with watching(copied, trials, lambda name, call: trials[name].take(call)):
        _output(copied, run, example)
    able = {name: trial for name, trial in trials.items() if not trial.fault}
    copied = _exchanged(copied, ((trial.dense, trial.sparse) for trial in able.values()))
    with _explained(f"{kind} does not run with sparse layers", "it does more than call them, so keep it dense"):
        _output(copied, run, example)
    seconds = layer_seconds({"dense": model, "sparse": copied}, able, run, example, rounds=rounds)
    rows = {
        name: trial.measured(seconds["dense"][name], seconds["sparse"][name], margin) if name in able else trial.left()
        for name, trial in trials.items()
    }
    slower = (trial for name, trial in able.items() if not rows[name].swapped)
    faster = _exchanged(copied, ((trial.sparse, trial.dense) for trial in slower)).eval()
    report = SparseReport(
        layers=tuple(rows.values()),
        latency=measure_latency(Runs(model, run), Runs(faster, run), (example,), rounds=rounds, clock=busy_clock()),
        largest_difference=relative_difference(expected, _output(faster, run, example)),
    )
    attach(faster, report)
    if report.swapped and report.latency.speedup < 1:
        warn(
            f"with {report.swapped} sparse layers the whole network is {report.latency.speedup:.2f} times as fast, "
            "though each of them is faster by itself: keep the dense network, or raise margin"
        )
    return faster


def _check(model: Any, margin: Any, tolerance: Any, rounds: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module, not a {type(model).__name__}: sparse_linear(model, example_input)"
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("model is a ScriptModule, whose layers can't be swapped: pass the module that it was made of")
    for name, value in (("margin", margin), ("tolerance", tolerance)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise ValueError(f"{name}={value!r} must be a positive number")
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise ValueError(f"rounds={rounds!r} must be a whole number of at least 1")
    if has_lazy_parameters(model):
        raise ValueError(f"{type(model).__name__} has lazy layers that never ran: run it once before")


def _example(example_input: Any, device: torch.device, forward: Forward | None) -> Any:
    """The example on a device, after a check."""
    example = own(move(example_input, device))  # a network may change what it is given
    example = dict(example) if isinstance(example, Mapping) else example
    if forward is not None or not isinstance(example, (tuple, dict)):
        check_example((example,))
    else:
        check_example(tuple(example.values()) if isinstance(example, dict) else example)
    return example


def _forward(model: nn.Module, example: Any) -> Any:
    """A tuple holds the arguments of the model; all else is run as a batch is."""
    return model(*example) if isinstance(example, tuple) else default_forward(model, example)


def _output(model: nn.Module, run: Forward, example: Any) -> Any:
    """What a network puts out, each time with the same random numbers; it leaves no trace."""
    with isolated_rng(seed=0), only_training(model, ()), eager():
        return run(model, own(example))


@contextmanager
def _explained(what: str, remedy: str) -> Iterator[None]:
    """Say what to do where a network does not run."""
    try:
        yield
    except Exception as error:  # the network may raise anything
        raise ValueError(f"{what} ({type(error).__name__}: {error}): {remedy}") from error


def _exchanged(model: nn.Module, pairs: Iterable[tuple[nn.Module | None, nn.Module | None]]) -> nn.Module:
    """The model with other modules wherever the first of each pair were; it is changed."""
    new = {id(old): module for old, module in pairs if module is not None}
    for parent in list(model.modules()):
        children = own_children(parent)
        children.update({name: new[id(child)] for name, child in children.items() if id(child) in new})
    return new.get(id(model), model)
