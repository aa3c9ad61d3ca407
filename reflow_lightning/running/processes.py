"""Several processes that do one thing together: all of them succeed, or all of them raise.

A process that raises alone leaves the others waiting for it for ever. So what may fail on one process stands in a
`together` block, at whose end the processes tell each other how it went; and each exchange of data stands in an
`in_step` block, which begins with the same question, so that the others hear of a failure wherever they are. Every
failure is told once, and Ctrl-C waits until an exchange is over. With a single process all of this costs nothing.
"""

from __future__ import annotations

import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from reflow_lightning.running.caller import users_level
from reflow_lightning.running.describing import first_line
from reflow_lightning.running.errors import ReflowError
from reflow_lightning.running.offers import send
from reflow_lightning.running.roll_call import finish, missing
from reflow_lightning.running.saying import unsaid
from reflow_lightning.running.world import rank, world_size


class PeerError(ReflowError, RuntimeError):
    """Another process failed, so this one stops too."""


class PeerEndedError(PeerError):
    """Another process ends, as by Ctrl-C."""


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
    with _nested():
        try:
            yield
        except BaseException as error:
            if not _was_told(error):
                _told.append(error)
                text = f"{task} failed on rank {rank()} ({type(error).__name__}: {error})"
                with _uninterrupted():
                    _exchange((text, not isinstance(error, Exception) or isinstance(error, PeerEndedError)))
            raise
        with in_step():
            pass


@contextmanager
def in_step(wanted: int = 0) -> Iterator[None]:
    """A block in which the processes exchange data; it is not begun if another process has failed.

    Args:
        wanted: What this process asks for first; see `asked_for`.

    Raises:
        PeerError: If another process has failed.
    """
    with _nested(), _uninterrupted() as interrupted:
        if failures := _exchange(None, wanted):
            kind = PeerEndedError if any(ends for _, ends in failures) else PeerError
            error = KeyboardInterrupt() if interrupted else kind("; ".join(text for text, _ in failures))
            interrupted.clear()
            _told.append(error)
            raise error
        yield


def gather(value: Any) -> list[Any]:
    """What every process passed, in the order of the ranks.

    Example:
        >>> gather("here")
        ['here']
    """
    if world_size() == 1:
        return [value]
    with in_step():
        return _gathered(value)


def summed(counts: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """The sum of the counts of all processes of a group, on the CPU.

    Args:
        counts: Integers, of the same shape everywhere.
        group: The processes; ``None`` stands for this one alone.
    """
    if group is None:
        return counts.cpu()
    total = counts.to(device_of_group(group), copy=True)
    with in_step():
        dist.all_reduce(total, group=group)
    return total.cpu()


def total(values: Tensor) -> Tensor:
    """The sum of the values of all processes, where they were.

    Example:
        >>> total(torch.ones(2))
        tensor([1., 1.])
    """
    return values if world_size() == 1 else summed(values, dist.group.WORLD).to(values.device)


def warn(message: str) -> None:
    """A warning on rank zero alone, which points at the user's line that led to it; see `saying_once`."""
    if rank() == 0 and unsaid([message]):
        warnings.warn(message, stacklevel=users_level())


_told: list[BaseException] = []  # what the others know of, until the outermost block ends
_depth = 0


@contextmanager
def _nested() -> Iterator[None]:
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if not _depth:
            _told.clear()


def _was_told(error: BaseException | None) -> bool:
    """Whether the others know of this error, or of the one that it was raised from."""
    while error is not None:
        if any(error is told for told in _told):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def _uninterrupted() -> Iterator[list[int]]:
    """Have Ctrl-C wait until the block is over: a process that left an exchange would leave the others in it."""
    interrupted: list[int] = []
    if world_size() == 1 or threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    handler = signal.signal(signal.SIGINT, lambda number, _: interrupted.append(number))
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, handler or signal.default_int_handler)
        if interrupted:
            signal.raise_signal(signal.SIGINT)


_FAILED = 2**30  # more than there are numbers to ask for


def asked_for(number: int) -> None:
    """Have all processes send what was `offered` under a number, as the others do when they wait for this one.

    Raises:
        PeerError: If another process has failed.
    """
    with in_step(number):
        pass


def _exchange(failure: tuple[str, bool] | None, wanted: int = 0) -> list[tuple[str, bool]]:
    """Tell the others, and hear from them, what failed, and whether a process ends; send what they ask for.

    It is over when what this process asks for was sent, or when nobody asks for anything.

    Args:
        failure: What failed here.
        wanted: The number of what this process asks for; 0 for nothing.
    """
    if world_size() == 1:
        if wanted:
            send(wanted)
        return []
    while True:
        here = wanted if failure is None else _FAILED
        told = torch.tensor([here], dtype=torch.int32, device=device_of_group(None))
        try:
            if told.is_cuda:
                dist.all_reduce(told, dist.ReduceOp.MAX)
            else:
                finish(dist.all_reduce(told, dist.ReduceOp.MAX, async_op=True))
        except RuntimeError as error:
            _told.append(gone := _gone(error))
            raise gone from error
        asked = int(told.item())
        if asked == _FAILED:
            return [told for told in _gathered(failure) if told is not None]
        if asked:
            send(asked)
        if asked == wanted:
            return []


def _gone(error: RuntimeError) -> PeerError:
    """What to say when processes no longer reach each other."""
    absent = missing()
    who = f"rank {', '.join(map(str, absent))} ended without a word, or hangs" if absent else "the connection is broken"
    reason = first_line(error)
    return PeerError(f"the processes can't exchange data any more, since {who} ({reason}): see what it printed last")


def all_gathered(values: Tensor) -> list[Tensor]:
    """What all processes passed, in tensors of one shape, within an `in_step` block."""
    found = [torch.empty_like(values) for _ in range(world_size())]
    dist.all_gather(found, values)
    return found


def _gathered(value: Any) -> list[Any]:
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def device_of_group(group: dist.ProcessGroup | None) -> torch.device:
    """Where NCCL wants its tensors; all other backends take them on the CPU."""
    nccl = "nccl" in str(dist.get_backend(group))
    return torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")
