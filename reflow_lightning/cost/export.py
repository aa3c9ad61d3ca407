"""Networks as files that run without this package: a torch program, and ONNX checked in onnxruntime."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from reflow_lightning.running.arguments import Example, Inputs, called, example_arguments, split, tensors_of
from reflow_lightning.running.batches import device_of
from reflow_lightning.running.difference import relative_difference
from reflow_lightning.running.extras import remedy
from reflow_lightning.running.files import write_whole
from reflow_lightning.running.inference import ordinary, outside_inference
from reflow_lightning.running.isolation import isolated_rng, only_training
from reflow_lightning.running.samples import doubled, map_samples

LARGEST_DIFFERENCE = 1e-4
"""Between the outputs of a network and of its ONNX file; relative, as `relative_difference` has it."""


@outside_inference()
def save_program(model: nn.Module, example_input: Example, path: str | Path) -> None:
    """Save what a network computes in eval mode, as `torch.export.save` does; by custom, the file ends with ``.pt2``.

    ``torch.export.load(path).module()`` runs it, without the code of the network and without this package. The number
    of samples is free where the network allows that; else it is fixed to the number in the example.

    Args:
        model: Any module that `torch.export` takes. It is not changed.
        example_input: A batch (N, ...), a tuple of all positional arguments, or a mapping. The file does not hold its
            tensors; what is no tensor is fixed.
        path: The file; its folder must exist.

    Raises:
        OSError: If it can't be written.
        Exception: Whatever `torch.export.export` raises for a network that it does not take.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "linear.pt2"
        >>> save_program(nn.Linear(4, 2), torch.zeros(1, 4), path)
        >>> torch.export.load(path).module()(torch.zeros(5, 4)).shape
        torch.Size([5, 2])
    """
    buffer = io.BytesIO()
    with _quiet():
        torch.export.save(export_program(model, example_input), buffer)
    write_whole(Path(path), buffer.getbuffer())


@outside_inference()
def export_onnx(model: nn.Module, example_input: Example, path: str | Path) -> None:
    """Save what a network computes in eval mode as ONNX.

    The number of samples is free where the network allows that; else it is fixed to the number in the example. Beyond
    two gigabytes, the weights are in a second file beside it.

    Args:
        model: Any module that `torch.export` takes. It is not changed.
        example_input: A batch (N, ...), a tuple of all positional arguments, or a mapping. Its tensors are the inputs
            of the file, in order; what is no tensor is fixed.
        path: The file; its folder must exist.

    Raises:
        ImportError: If the packages are missing.
        OSError: If it can't be written.
        Exception: Whatever torch raises for a network that it can't export.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f"ONNX needs further packages: {remedy('onnx')}") from error
    with _quiet():
        program = torch.onnx.export(export_program(model, example_input), dynamo=True, verbose=False)
        assert program is not None
        program.save(str(path))


@outside_inference()
def check_onnx(model: nn.Module, example_input: Example, path: str | Path) -> float:
    """Run an ONNX file in onnxruntime, on the CPU, and compare with the network that it was made of.

    Args:
        model: The network, run in eval mode.
        example_input: A batch (N, ...), a tuple of all positional arguments, or a mapping.
        path: The file.

    Returns:
        The largest difference between the outputs, over the largest absolute value of the network's.

    Raises:
        ImportError: If the package is missing.
        ValueError: If the difference is larger than 1e-4, or the file takes another number of tensors.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(f"ONNX needs further packages: {remedy('onnx')}") from error
    with isolated_rng(), only_training(model, ()), torch.no_grad():
        expected = called(model, example_arguments(model, example_input, device_of(model)))
    session = onnxruntime.InferenceSession(Path(path).read_bytes(), providers=["CPUExecutionProvider"])
    tensors = tensors_of(split(example_arguments(model, example_input, torch.device("cpu"))))
    names = [given.name for given in session.get_inputs()]
    if len(names) != len(tensors):
        raise ValueError(f"{path} takes {len(names)} tensors, not {len(tensors)}: pass what it was exported with")
    feed = {name: tensor.detach().numpy() for name, tensor in zip(names, tensors, strict=True)}
    outputs = session.run(None, feed)
    difference = relative_difference(expected, [torch.from_numpy(output) for output in outputs])
    if difference > LARGEST_DIFFERENCE:
        raise ValueError(
            f"{path}: its output in onnxruntime is {difference:.1e} from the network's, more than "
            f"{LARGEST_DIFFERENCE}: do not use it"
        )
    return difference


def export_program(model: nn.Module, example_input: Example) -> ExportedProgram:
    """The program of a network in eval mode, with any number of samples where the network allows that.

    It holds neither the example nor the paths of source files.

    Args:
        model: Any module that `torch.export` takes.
        example_input: A batch (N, ...), a tuple of all positional arguments, or a mapping; moved to the model's device.
            Samples are in the first tensor and in all that are as long as it; what is no tensor is fixed.
    """
    model, inputs = ordinary(model), example_arguments(model, example_input, device_of(model))
    several = doubled(inputs)  # of one sample torch takes the 1 for fixed; and it writes on these tensors
    positional, named = split(inputs)
    free = map_samples(lambda _: {0: Dim.DYNAMIC}, named or positional, otherwise=lambda _: None)
    with isolated_rng(), only_training(model, ()), torch.no_grad():
        try:
            program = torch.export.export(model, *split(several), dynamic_shapes=free)
        except Exception:  # a network of a fixed number of samples, which torch says in several ways
            program = _fixed(model, *split(inputs))
    program.example_inputs = None
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def _fixed(model: nn.Module, positional: Inputs, named: dict[str, Any]) -> ExportedProgram:
    """The program of a network with the example's number of samples."""
    try:
        return torch.export.export(model, positional, named)
    except Exception as error:
        if "Cache" in str(error):
            error.add_note('A language model puts out its cache: pass example_input={..., "use_cache": False}')
        raise


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' own warnings, and without what they log of each of their steps."""
    loggers = [logging.getLogger(name) for name in ("torch.export", "torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
