"""Blocks in which every module of a network is called, though torch has faster ways around some of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


class _Eager:
    """How many blocks of `eager` are open, and what the last of them puts back. They may end in any order."""

    def __init__(self) -> None:
        self.lock, self.blocks, self.settings = threading.Lock(), 0, ExitStack()


_EAGER = _Eager()


@contextmanager
def eager() -> Iterator[None]:
    """Have every module be called: compiled code runs eagerly, and attention without its fast path.

    Code that `torch.compile` made runs neither hooks nor the modes of torch. The fast path of attention is one kernel
    for a whole layer, which skips the modules within, or hands them nested tensors. Both settings are of the process;
    where blocks in several threads overlap, the last that ends puts them back.

    Example:
        >>> with eager():
        ...     torch.backends.mha.get_fastpath_enabled()
        False
    """
    with _EAGER.lock:
        if not _EAGER.blocks:
            fast = torch.backends.mha.get_fastpath_enabled()
            _EAGER.settings.enter_context(torch.compiler.set_stance("force_eager"))
            _EAGER.settings.callback(torch.backends.mha.set_fastpath_enabled, fast)
            torch.backends.mha.set_fastpath_enabled(False)
        _EAGER.blocks += 1
    try:
        yield
    finally:
        with _EAGER.lock:
            _EAGER.blocks -= 1
            if not _EAGER.blocks:
                _EAGER.settings.close()
