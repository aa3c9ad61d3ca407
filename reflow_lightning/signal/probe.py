"""Every output of chosen layers, handed to a listener."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from reflow_lightning.running.compat.torch import BatchNorm, Convolution, RunningNorm
from reflow_lightning.running.hooks import Call, watching
from reflow_lightning.running.names import Patterns, as_patterns, matches, nearest

Listener = Callable[[str, Tensor], None]
"""``(layer name, output) -> None``."""

_NORMS = (RunningNorm, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm)
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)


def _is_weighted(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, Convolution, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention))


def channel_dim(layer: nn.Module) -> int:
    """The channel dimension of a layer's output: last for Linear, LayerNorm, recurrent and attention layers, else 1.

    Example:
        >>> channel_dim(nn.Linear(2, 3)), channel_dim(nn.BatchNorm2d(3))
        (-1, 1)
    """
    return -1 if isinstance(layer, _CHANNELS_LAST) or type(layer).__name__ == "RMSNorm" else 1


def is_time_first(layer: nn.Module) -> bool:
    """Whether a layer's output of three dimensions is (time, samples, channels).

    Example:
        >>> is_time_first(nn.GRU(2, 3)), is_time_first(nn.GRU(2, 3, batch_first=True))
        (True, False)
    """
    return isinstance(layer, (nn.RNNBase, nn.MultiheadAttention)) and not layer.batch_first


def signal_layers(model: nn.Module, patterns: Patterns | None = None) -> list[str]:
    """The layers whose output is the signal: BatchNorm layers, and weighted layers that no BatchNorm follows.

    A BatchNorm layer follows a weighted one if it comes next among the model's normalisation and weighted layers and
    has its number of channels.

    Args:
        model: Any module.
        patterns: Glob patterns on module names, instead of that rule.

    Raises:
        ValueError: If no layer is left.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
        >>> signal_layers(model), signal_layers(model, "2")
        (['1', '4'], ['2'])
    """
    modules = dict(model.named_modules())
    if patterns is not None:
        for pattern in (wanted := as_patterns(patterns)):
            if not matches(modules, pattern):
                raise ValueError(f"layers pattern '{pattern}' matches no module{nearest(pattern, modules)}")
        return [name for name in modules if any(matches([name], pattern) for pattern in wanted)]
    layers = [(name, m) for name, m in modules.items() if isinstance(m, _NORMS) or _is_weighted(m)]
    names = [
        name
        for (name, module), after in zip(layers, [*(module for _, module in layers[1:]), None], strict=False)
        if isinstance(module, BatchNorm) or (_is_weighted(module) and not _normalises(after, module))
    ]
    if not names:
        raise ValueError(f"{type(model).__name__} has no layer to measure: name modules with layers=('...',)")
    return names


def _normalises(after: nn.Module | None, module: nn.Module) -> bool:
    channels = getattr(module, "out_channels", getattr(module, "out_features", None))
    return isinstance(after, BatchNorm) and after.num_features == channels


@contextmanager
def listening(model: nn.Module, layers: Iterable[str], listener: Listener) -> Iterator[None]:
    """Call ``listener(name, output)`` after every call of the named layers; of several outputs the first tensor counts.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(2, 3))
        >>> with listening(model, ["0"], lambda name, output: print(name, tuple(output.shape))):
        ...     _ = model(torch.ones(5, 2))
        0 (5, 3)
    """

    def hand_over(name: str, call: Call) -> None:
        output = call.output
        while isinstance(output, (tuple, list)) and output:
            output = output[0]
        if isinstance(output, Tensor) and output.is_floating_point() and output.ndim > 1:
            listener(name, output.detach())

    with watching(model, layers, hand_over):
        yield
