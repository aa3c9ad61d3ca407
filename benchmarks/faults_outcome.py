"""What a fault did: how often it was tried, what was seen, and what was lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

FORK = ForkServerContext()  # a child begins with all of this imported, and inherits nothing else
FORK.set_forkserver_preload(["reflow_lightning.experiments.experiment", "sklearn.datasets"])


@dataclass
class Outcome:
    """What was found out about a fault.

    Attributes:
        tried: How often it struck.
        damage: Whatever was lost beyond the steps since the last checkpoint, in words.
        steps: Steps that a training had to do again, each time that there were any.
        seen: What happened, and how often.
    """

    tried: int = 0
    damage: list[str] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)

    @property
    def lost(self) -> str:
        """All of it in a few words."""
        if self.damage:
            return f"**{len(self.damage)} times something:** {self.damage[0]}"
        if self.steps:
            return f"at most {max(self.steps)} steps, those since the last checkpoint"
        return "nothing"

    @property
    def happened(self) -> str:
        """What was seen, the most frequent first."""
        return "; ".join(f"{times} x {what}" for what, times in self.seen.most_common() if times)


@dataclass(frozen=True)
class Fault:
    """Something that can go wrong.

    Attributes:
        title: What goes wrong.
        attempt: Tries it: gets the number of times, an empty folder and what draws the random moments.
        times: How often the table has it tried.
    """

    title: str
    attempt: Callable[[int, Path, Random], Outcome]
    times: int


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Where two nested values differ in a type, a length or a single bit."""
    if type(a) is not type(b):
        return [path]
    if isinstance(a, Mapping):
        missing = [f"{path}/{key}" for key in a.keys() ^ b.keys()]
        return missing + [d for key in a.keys() & b.keys() for d in differences(a[key], b[key], f"{path}/{key}")]
    if isinstance(a, (list, tuple)):
        if len(a) != len(b):
            return [path]
        return [d for i, pair in enumerate(zip(a, b, strict=True)) for d in differences(*pair, f"{path}/{i}")]
    if isinstance(a, Tensor):
        return [] if (a.dtype, a.shape) == (b.dtype, b.shape) and _bytes(a) == _bytes(b) else [path]
    return [] if a == b else [path]


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def in_child(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a process of its own, whose limits and rights it may give up."""
    here, there = FORK.Pipe(duplex=False)
    child = FORK.Process(target=_send_result, args=(there, function, arguments))
    child.start()
    there.close()
    try:
        return here.recv()
    finally:
        child.join()


def start(function: Callable[..., Any], *arguments: Any) -> tuple[ForkServerProcess, Any]:
    """Run a function in a process of its own; its first argument is the pipe into which it reports."""
    here, there = FORK.Pipe(duplex=False)
    child = FORK.Process(target=function, args=(there, *arguments))
    child.start()
    there.close()
    return child, here


def _send_result(pipe: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    pipe.send(function(*arguments))
