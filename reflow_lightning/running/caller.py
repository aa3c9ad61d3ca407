"""Where in the user's code this package was called."""

from __future__ import annotations

import inspect

_PASSED_OVER = (
    *("reflow_lightning", "torch", "lightning", "pytorch_lightning", "lightning_fabric", "hydra"),
    *("contextlib", "functools"),
)


def users_level() -> int:
    """How many frames lie between the caller of this function and the user's line that led there, which counts too.

    Passed over are frames of this package, and of those that call it for the user: a callback is called by Lightning,
    which `fit` of the user's called. Where no frame is the user's, the outermost stands for it.

    Returns:
        What `warnings.warn` takes as its ``stacklevel``, if the caller calls that.
    """
    frame, level = inspect.currentframe(), 0
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in _PASSED_OVER:
        frame, level = frame.f_back, level + 1
    return level if frame is not None else level - 1
