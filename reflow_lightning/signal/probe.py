"""Every output of chosen layers, handed to a listener."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from reflow_lightning.layers import Layer, Order, layer_of
from reflow_lightning.running.compat.torch import BatchNorm
from reflow_lightning.running.hooks import Call, watching
from reflow_lightning.running.names import Patterns, as_patterns, matches, matches_any, nearest
from reflow_lightning.signal.leaving import NothingToMeasureError

Listener = Callable[[str, Tensor], None]
"""``(layer name, output) -> None``."""


def channel_dim(layer: nn.Module) -> int:
    """The channel dimension of a layer's output, as `reflow_lightning.layers` knows it; 1 if its type is unknown.

    Example:
        >>> channel_dim(nn.Linear(2, 3)), channel_dim(nn.BatchNorm2d(3)), channel_dim(nn.ReLU())
        (-1, 1, 1)
    """
    known = layer_of.known(layer)
    return 1 if known is None else known.channel_dim


def is_time_first(layer: nn.Module) -> bool:
    """Whether a layer's output of three dimensions is (time, samples, channels).

    Example:
        >>> is_time_first(nn.GRU(2, 3)), is_time_first(nn.GRU(2, 3, batch_first=True))
        (True, False)
    """
    known = layer_of.known(layer)
    return known is not None and known.time_first


def candidates(known: Mapping[str, Layer]) -> list[str]:
    """The layers that may be `signal_layers`, before it is known which layer follows which."""
    return [name for name, layer in known.items() if isinstance(layer.module, BatchNorm) or layer.weights]


def signal_layers(known: Mapping[str, Layer], order: Order) -> list[str]:
    """The layers whose output is the signal: BatchNorm layers, and weighted layers that no BatchNorm follows.

    Args:
        known: The layers of a model whose type is known.
        order: For each layer, the BatchNorm layers that get its outputs.

    Raises:
        NothingToMeasureError: If no layer is left.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
        >>> from reflow_lightning.layers import known_layers
        >>> signal_layers(dict(known_layers(model)), Order(handed_on={"0": ("1",)}))
        ['1', '4']
    """
    names = [
        name for name in candidates(known) if isinstance(known[name].module, BatchNorm) or name not in order.handed_on
    ]
    if not names:
        raise NothingToMeasureError(
            "the model has no layer to measure whose type is known: name modules with layers=('...',)"
        )
    return names


def matching_modules(model: nn.Module, patterns: Patterns) -> list[str]:
    """The names of the modules that match one of the glob patterns.

    Raises:
        ValueError: If a pattern matches none.

    Example:
        >>> matching_modules(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), "1")
        ['1']
    """
    modules, wanted = dict(model.named_modules()), as_patterns(patterns)
    for pattern in wanted:
        if not matches(modules, pattern):
            raise ValueError(f"layers pattern '{pattern}' matches no module{nearest(pattern, modules)}")
    return [name for name in modules if matches_any(name, wanted)]


@contextmanager
def listening(model: nn.Module, layers: Iterable[str], listener: Listener) -> Iterator[None]:
    """Call ``listener(name, output)`` after every call of the named layers; of several outputs the first tensor counts.

    A packed sequence is handed over as a padded one, in the layout of the layer.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(2, 3))
        >>> with listening(model, ["0"], lambda name, output: print(name, tuple(output.shape))):
        ...     _ = model(torch.ones(5, 2))
        0 (5, 3)
    """

    def hand_over(name: str, call: Call) -> None:
        output = call.output
        while isinstance(output, (tuple, list)) and output and not isinstance(output, PackedSequence):
            output = output[0]
        if isinstance(output, PackedSequence):
            output, _ = pad_packed_sequence(output, batch_first=not is_time_first(model.get_submodule(name)))
        if isinstance(output, Tensor) and output.is_floating_point() and output.ndim > 1:
            listener(name, output.detach())

    with watching(model, layers, hand_over):
        yield
