"""How much memory is free."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from reflow_lightning.running.world import world_size

_UNKNOWN = 4 << 30
"""What a machine is taken to have that does not tell."""

_GROUPS = (  # of Linux, which may allow a container less than the machine has: limit, and what of it is in use
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)


def free_bytes(device: torch.device, root: Path = Path("/")) -> int:
    """Bytes of memory that a device has left for this process, when all processes take an equal share.

    Args:
        device: The CPU counts what the system can make available, within the limit of a container.
        root: Where the system tells of itself.

    Example:
        >>> free_bytes(torch.device("cpu")) > 0
        True
    """
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + reserved)
    limits = [_read(root / "sys/fs/cgroup" / limit, root / "sys/fs/cgroup" / used) for limit, used in _GROUPS]
    known = [bytes_ for bytes_ in (_available(root / "proc/meminfo"), *limits) if bytes_ is not None]
    return max(0, min(known, default=_physical() // 2)) // world_size()


def _available(path: Path) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), None)


def _read(limit: Path, used: Path) -> int | None:
    """What a limit leaves; ``None`` where there is none."""
    try:
        return int(limit.read_text()) - int(used.read_text())
    except (OSError, ValueError):  # no such file, or "max"
        return None


def _physical() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return _UNKNOWN
