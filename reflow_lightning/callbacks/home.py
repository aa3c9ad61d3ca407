"""What a callback learns in a process that Lightning started comes back to the callback of the main process.

The strategies ``ddp_spawn``, ``ddp_fork`` and ``ddp_notebook`` train in processes of their own, on copies of all
objects, and Lightning brings back the weights alone. What is sent along with its results is a letter, which delivers
itself when it is unpickled.
"""

from __future__ import annotations

import os
import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Self
from weakref import WeakValueDictionary

import lightning.pytorch as pl

from reflow_lightning.running.compat.lightning import send_with_results

_LIVE: WeakValueDictionary[int, ComesHome] = WeakValueDictionary()


class ComesHome(ABC):
    """An object whose copy in another process can send its state to the one that it was copied from."""

    _born: int
    _home: int | None = None

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """Whatever makes an object, a call, a copy or a pickle, begins here."""
        self = super().__new__(cls)
        self._born = os.getpid()
        _LIVE[id(self)] = self
        return self

    def __getstate__(self) -> dict[str, Any]:
        """What is sent to another process says where it comes from."""
        return {name: value for name, value in vars(self).items() if name != "_born"} | {"_home": id(self)}

    @abstractmethod
    def come_home(self, state: Any) -> None:
        """Take over what the copy has learned."""

    def write_home(self, trainer: pl.Trainer, state: Callable[[], Any]) -> None:
        """Send a state with the results of this process, if Lightning started it to train in it.

        Args:
            trainer: The running trainer.
            state: Gives the state when the training is over; it is pickled.
        """
        home = self._home if self._born == os.getpid() else id(self)  # a fork has the addresses of its parent
        if home is not None:
            send_with_results(trainer, "reflow_lightning", lambda: _Letter(home, state()))


class _Letter:
    def __init__(self, home: int, state: Any) -> None:
        self._home, self._state = home, pickle.dumps(state)  # in bytes: shared memory would end with this process

    def __reduce__(self) -> Any:
        return _deliver, (self._home, self._state)


def _deliver(home: int, state: bytes) -> None:
    receiver = _LIVE.get(home)
    if receiver is not None:
        receiver.come_home(pickle.loads(state))  # noqa: S301  (of a process that this one has started)
