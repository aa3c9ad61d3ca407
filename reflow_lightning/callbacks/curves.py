"""Which layers have a curve of their own: a few, since a page of two hundred charts shows nobody anything."""

from __future__ import annotations

from collections.abc import Sequence

from reflow_lightning.running.names import Patterns, as_patterns, matches_any

Curves = int | Patterns
"""So many layers, evenly spaced from input to output; or those whose names match: ``"*"`` for all of them."""

FEW = 4
"""So many layers have curves by default: enough to see where from input to output a signal gets lost."""


def check_curves(curves: Curves) -> int | tuple[str, ...]:
    """What a user asks for.

    Raises:
        ValueError: If it is neither a number of layers nor patterns.

    Example:
        >>> check_curves(4), check_curves("*.bn1")
        (4, ('*.bn1',))
    """
    if isinstance(curves, int) and not isinstance(curves, bool) and curves >= 0:
        return curves
    try:
        if isinstance(curves, (bool, int)):
            raise TypeError
        patterns = as_patterns(curves)
    except TypeError:
        patterns = ()
    if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
        raise ValueError(
            f"curves={curves!r} must be a number of layers, or patterns of their names such as '*' for all"
        )
    return patterns


def with_curves(layers: Sequence[str], curves: int | tuple[str, ...]) -> list[str]:
    """Those of some layers that have curves.

    Args:
        layers: Their names, from input to output.
        curves: What was asked for; of a number, the first and the last layer are among them.

    Example:
        >>> with_curves(["conv1", "conv2", "conv3", "conv4", "fc"], 3), with_curves(["conv1", "fc"], ("f*",))
        (['conv1', 'conv3', 'fc'], ['fc'])
    """
    if not isinstance(curves, int):
        return [layer for layer in layers if matches_any(layer, curves)]
    if curves >= len(layers):
        return list(layers)
    last = len(layers) - 1
    places = {last} if curves == 1 else {round(i * last / (curves - 1)) for i in range(curves)}
    return [layer for place, layer in enumerate(layers) if place in places]
