"""Parameters that are whole on a process while somebody uses them, and spread over processes otherwise."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from reflow_lightning.running.lent import LENT
from reflow_lightning.running.processes import asked_for
from reflow_lightning.running.shards import local, sent_whole, whole_like


class Unit:
    """Parameters of a copied network, which are whole on this process while somebody uses them.

    It is held by the module that `fully_shard` was applied to, in the copy.

    Args:
        parts: The parameters of the copied network, each with the tensor, spread over processes, that has its values.
        changes: Whether what is written into the parameters is written into these tensors, too.
    """

    def __init__(self, parts: list[tuple[nn.Parameter, Tensor]], changes: bool) -> None:
        self._parts, self._changes = parts, changes
        self._users, self._is_whole, self._is_held = 0, False, False
        self.number: int | None = None
        self._holding: ExitStack | None = None
        self._empty()
        for parameter, _ in parts:
            LENT[parameter] = weakref.ref(self)  # which itself holds the parameter

    @contextmanager
    def held(self) -> Iterator[None]:
        """A block in which the parameters are whole, and what is written into them stays."""
        with self.in_use():
            self._is_held = True
            yield

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """A block in which the parameters are whole; several may lie within each other, or overlap."""
        self._users += 1
        try:
            if not self._is_whole:
                self._ask()
            yield
        finally:
            self._users -= 1
            if not self._users and self._is_whole:
                self._keep()
                self._empty()

    def hold(self) -> None:
        """Keep the parameters whole until `let_go` is called."""
        if self._holding is None:
            self._holding = ExitStack()
            self._holding.enter_context(self.in_use())

    def let_go(self) -> None:
        """End a `hold`, if there is one."""
        if self._holding is not None:
            self._holding.close()
            self._holding = None

    def around(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """The forward pass of the unit's module, with whole parameters."""

        @wraps(forward)
        def run(*args: Any, **kwargs: Any) -> Any:
            with self.in_use():
                if torch.is_grad_enabled():  # what is differentiated within the network needs the parameters later
                    self.hold()
                return forward(*args, **kwargs)

        return run

    @torch.no_grad()
    def send(self) -> None:
        """Send the parts of this process, and take the others' if somebody uses the unit here; all must call this."""
        if self._is_whole:
            self._keep()  # another may ask for what was changed here
        for parameter, part in self._parts:
            whole = sent_whole(part)
            if self._users and not self._is_whole:
                parameter.data = whole
        self._is_whole = bool(self._users)

    def kept(self, parameter: Tensor) -> Tensor:
        """The tensor, spread over processes, that has the values of one of the parameters."""
        return next(part for own, part in self._parts if own is parameter)

    def _ask(self) -> None:
        if self.number is None:
            raise RuntimeError("this network is whole nowhere: run it within `serving` on all processes")
        asked_for(self.number)

    @torch.no_grad()
    def _keep(self) -> None:
        """Write the values of this process's part to where it is kept, unless a mere forward pass has changed them."""
        for parameter, part in self._parts if self._changes and self._is_held else ():
            local(part).copy_(local(whole_like(part, parameter.detach())))

    def _empty(self) -> None:
        for parameter, part in self._parts:
            parameter.data = _nothing(parameter, part)
        self._is_whole = self._is_held = False


def _nothing(parameter: Tensor, part: Tensor) -> Tensor:
    """A tensor of the same shape that takes no memory; reading it by mistake gives NaN."""
    value = torch.nan if parameter.dtype.is_floating_point else 0
    return torch.full((), value, dtype=parameter.dtype, device=local(part).device).expand(part.shape)
