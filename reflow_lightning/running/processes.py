"""Several processes that do one thing together: all of them succeed, or all of them raise.

A process that raises alone leaves the others waiting for it for ever. So whatever may fail on one process stands in a
`together` block, at whose end the processes tell each other how it went; and each exchange of data begins with the same
question, so that the others hear of a failure wherever they are. Every failure is told once. With a single process all
of this costs nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class PeerError(RuntimeError):
    """Another process failed, so this one stops too."""


def world_size() -> int:
    """Number of processes that run together; 1 without `torch.distributed`."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The place of this process among them."""
    return dist.get_rank() if world_size() > 1 else 0


def share(total: int) -> int:
    """How many of ``total`` batches are this process's, when process r of R takes the batches r, r + R, ...

    Example:
        >>> share(50)
        50
    """
    return len(range(rank(), total, world_size()))


@contextmanager
def together(task: str) -> Iterator[None]:
    """Raise on every process if the block raises on one.

    Args:
        task: What the block does, for the message on the other processes.

    Raises:
        PeerError: If the block succeeded here, but not on another process.

    Example:
        >>> with together("nothing"):
        ...     pass
    """
    try:
        yield
    except BaseException as error:
        if not getattr(error, "_reflow_told", False):
            _mark(error)
            _exchange(f"{task} failed on rank {rank()} ({type(error).__name__}: {error})")
        raise
    _raise_if(_exchange(None))


def gather(value: Any) -> list[Any]:
    """What every process passed, in the order of the ranks.

    Example:
        >>> gather("here")
        ['here']
    """
    if world_size() == 1:
        return [value]
    _raise_if(_exchange(None))
    return _gathered(value)


def summed(counts: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """The sum of the counts of all processes of a group, on the CPU.

    Args:
        counts: Integers, of the same shape everywhere.
        group: The processes; ``None`` stands for this one alone.
    """
    if group is None:
        return counts.cpu()
    total = counts.to(_device(group), copy=True)
    dist.all_reduce(total, group=group)
    return total.cpu()


def warn(message: str, stacklevel: int = 1) -> None:
    """A warning on rank zero alone."""
    if rank() == 0:
        warnings.warn(message, stacklevel=stacklevel + 1)


def _mark(error: BaseException) -> None:
    error._reflow_told = True  # type: ignore[attr-defined]


def _exchange(failure: str | None) -> list[str]:
    """Tell the others, and hear from them, what failed."""
    if world_size() == 1:
        return []
    failed = torch.tensor([failure is not None], dtype=torch.int32, device=_device(None))
    dist.all_reduce(failed)
    if not failed.item():
        return []
    return [text for text in _gathered(failure) if text is not None]


def _raise_if(failures: list[str]) -> None:
    if failures:
        error = PeerError("; ".join(failures))
        _mark(error)
        raise error


def _gathered(value: Any) -> list[Any]:
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def _device(group: dist.ProcessGroup | None) -> torch.device:
    """Where NCCL wants its tensors; all other backends take them on the CPU."""
    nccl = "nccl" in str(dist.get_backend(group))
    return torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")
