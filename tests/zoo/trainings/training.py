"""What a training of the zoo is: a module, its data, and what it demands of a callback."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl


@dataclass(frozen=True)
class Training:
    """A training as a stranger wrote it.

    Attributes:
        name: By which tests ask for it.
        exercises: What of a callback it tries, in a few words.
        module: Makes the LightningModule. It draws from torch's random state.
        data: Makes a DataLoader or a LightningDataModule, which give the same batches each time: 8 an epoch, and 2 to
            validate on if the module does that. ``None`` where the module has a loader of its own.
        trainer: Further arguments of the Trainer; ``callbacks`` are functions that make them.
        reflow: What a user has to give `Reflow` beside the sparsity.
        lightning: The package that the module is written for.
        resumes: Whether plain Lightning resumes it from a checkpoint bit for bit, if the random state is the same.
    """

    name: str
    exercises: str
    module: Callable[[], pl.LightningModule]
    data: Callable[[], Any]
    trainer: Mapping[str, Any] = field(default_factory=dict)
    reflow: Mapping[str, Any] = field(default_factory=dict)
    lightning: str = "lightning.pytorch"
    resumes: bool = True
