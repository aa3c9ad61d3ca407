"""Who is still there, asked when an exchange of data between processes has failed."""

from __future__ import annotations

import time
from typing import Any

import torch.distributed as dist

from reflow_lightning.running.compat.sharding import default_store

SECONDS = 5.0
"""A process that has noticed a failure waits as long for the others to notice it."""

_LOOKS = 1.0
"""So often a process that waits for an exchange looks whether others have seen it fail."""

_TROUBLE = "reflow_lightning/trouble"


def finish(work: Any) -> None:
    """Wait for an exchange, and not in vain: end too if another process has seen it fail.

    Args:
        work: What a collective of gloo returned with ``async_op=True``.

    Raises:
        RuntimeError: If it fails, here or elsewhere.
    """
    pause, looked = 1e-5, time.monotonic()
    while not work.is_completed():
        time.sleep(pause)
        pause = min(2 * pause, 0.002)
        if time.monotonic() - looked > _LOOKS:
            looked = time.monotonic()
            if default_store().check([_TROUBLE]):
                raise RuntimeError("another process saw an exchange of data fail")
    work.wait()


def missing() -> list[int]:
    """The ranks that do not answer within `SECONDS`.

    Rank zero may keep the store through which they answer. If it ends before it has answered, it is the one; if it ends
    after that, it has waited as long as this process does, and those that had not answered by then are named.
    """
    here, everybody = dist.get_rank(), range(dist.get_world_size())
    absent = [0]
    try:
        store = default_store()
        store.set(_TROUBLE, "seen")
        store.set(f"{_TROUBLE}/{here}", "here")
        end = time.monotonic() + SECONDS
        while True:
            absent = [rank for rank in everybody if not store.check([f"{_TROUBLE}/{rank}"])]
            if not absent or time.monotonic() > end:
                return absent
            time.sleep(0.05)
    except RuntimeError:  # the store went with rank zero
        return [0] if 0 in absent else absent
