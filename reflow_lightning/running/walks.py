"""Forward passes that stop on their way and go on later. Each runs in a thread of its own; one alone runs at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar, copy_context
from typing import Any

import torch

from reflow_lightning.running.compat.torch import function_modes, pop_function_mode, push_function_mode
from reflow_lightning.running.generators import RandomState

_AUTOCAST = ("cpu", "cuda", "mps", "xpu")
_KERNELS = ("flash", "mem_efficient", "math", "cudnn")  # of scaled dot product attention
_CUDNN = ("enabled", "benchmark", "deterministic")


class Surroundings:
    """What torch keeps for each thread, as it is in the thread that makes this.

    These are gradients, inference mode, autocast, the modes that watch functions, and the device and stream of CUDA.

    Example:
        >>> with torch.no_grad():
        ...     surroundings = Surroundings()
        >>> with surroundings.entered():
        ...     torch.is_grad_enabled()
        False
    """

    def __init__(self) -> None:
        self._inference, self._gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
        enabled = [kind for kind in _AUTOCAST if torch.is_autocast_enabled(kind)]
        self._autocast = [(kind, torch.get_autocast_dtype(kind)) for kind in enabled]
        self._modes = function_modes()
        self._stream = torch.cuda.current_stream() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The same in the present thread, for a block."""
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(self._inference))
            stack.enter_context(torch.set_grad_enabled(self._gradients))
            for kind, dtype in self._autocast:
                stack.enter_context(torch.autocast(kind, dtype=dtype))
            if self._stream is not None:
                stack.enter_context(torch.cuda.stream(self._stream))
            for mode in self._modes:
                push_function_mode(mode)
                stack.callback(pop_function_mode)
            yield


class Settings:
    """Settings of torch that hold for all threads, so that a pass that has changed them must not be left with them.

    These are the default type, the kernels of attention, and how cuDNN chooses its own.

    Example:
        >>> before = Settings()
        >>> torch.set_default_dtype(torch.float64)
        >>> before.restore()
        >>> torch.get_default_dtype()
        torch.float32
    """

    def __init__(self) -> None:
        self._dtype = torch.get_default_dtype()
        self._kernels = [getattr(torch.backends.cuda, f"{name}_sdp_enabled")() for name in _KERNELS]
        self._cudnn = [getattr(torch.backends.cudnn, name) for name in _CUDNN]

    def restore(self) -> None:
        """Set them to what they were."""
        torch.set_default_dtype(self._dtype)
        for name, enabled in zip(_KERNELS, self._kernels, strict=True):
            getattr(torch.backends.cuda, f"enable_{name}_sdp")(enabled)
        for name, value in zip(_CUDNN, self._cudnn, strict=True):
            setattr(torch.backends.cudnn, name, value)


class RunsThroughError(Exception):
    """A pass can't stop on its way, since others would meanwhile find what it puts back only at its end."""


class _EndedError(BaseException):
    """Ends a pass whose rest nobody needs; no handler of the model may stop it."""


_WALK: ContextVar[Walk | None] = ContextVar("walk", default=None)


def current_walk() -> Walk | None:
    """The walk in whose thread this is called; ``None`` outside of all."""
    return _WALK.get()


def check_no_walk() -> None:
    """Check that nothing stops within what is to come.

    Raises:
        RunsThroughError: In the thread of a walk.
    """
    if current_walk() is not None:
        raise RunsThroughError("no walk may stop here")


class Walk:
    """A function that runs in a thread of its own, stops where it calls `stop`, and goes on when it is told to.

    The caller of `go` waits while it runs. It has random states and `Settings` of its own, which begin as they are when
    it is first told to go; the caller's are left as they were.

    Args:
        run: The function.
        generators: Generators that it may draw random numbers from, beside the global ones of Python, NumPy and torch.

    Attributes:
        at: What it said when it stopped; ``None`` before it has, and after its end.
        over: Whether it has come to its end.

    Example:
        >>> def run():
        ...     print("told to", current_walk().stop("waiting"))
        >>> walk = Walk(run)
        >>> walk.go()
        >>> walk.at, walk.over
        ('waiting', False)
        >>> walk.go("go on")
        told to go on
        >>> walk.at, walk.over
        (None, True)
    """

    def __init__(self, run: Callable[[], object], generators: Sequence[Any] = ()) -> None:
        self.at: Any = None
        self.over = False
        self._run, self._generators = run, generators
        self._surroundings = Surroundings()
        self._own: tuple[RandomState, Settings] | None = None
        self._turn, self._halted = threading.Semaphore(0), threading.Semaphore(0)
        self._answer: Any = None
        self._ending = False
        self._error: BaseException | None = None
        context = copy_context()
        context.run(_WALK.set, self)
        self._thread = threading.Thread(target=context.run, args=(self._work,), daemon=True)

    def go(self, answer: Any = None) -> None:
        """Go on to the next stop or to the end.

        Args:
            answer: What `stop` returns where it waits.

        Raises:
            BaseException: What the function raised.
        """
        ours = RandomState(self._generators), Settings()
        for state in self._own or ():
            state.restore()
        self.at, self._answer = None, answer
        try:
            if self._thread.ident is None:
                self._thread.start()
            else:
                self._turn.release()
            try:
                self._halted.acquire()
            except BaseException:  # Ctrl-C: nothing else may run before it stands still
                self._ending = True
                self._halted.acquire()
                raise
        finally:
            self._own = RandomState(self._generators), Settings()
            for state in ours:
                state.restore()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def stop(self, at: Any) -> Any:
        """Stop until told to go on; to be called by the function."""
        if self._ending:
            raise _EndedError
        self.at = at
        self._halted.release()
        self._turn.acquire()
        if self._ending:
            raise _EndedError
        return self._answer

    def end(self) -> None:
        """End it where it stands; its thread is gone afterwards."""
        self._ending = True
        if self._thread.ident is None:
            self.over = True
            return
        if not self.over:
            with suppress(Exception):  # the function may raise anything when it is ended
                self.go()
        self._thread.join()

    def _work(self) -> None:
        try:
            with self._surroundings.entered():
                self._run()
        except _EndedError:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self.at, self.over = None, True
            self._halted.release()
