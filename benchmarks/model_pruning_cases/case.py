"""What a case is, and what several of them do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from model_pruning_cases.sides import Net, Side, batches, trainer, weights, zeros

SEED = 0
HALF = 0.5


@dataclass(frozen=True)
class Result:
    """What came out, in words, and whether it is what was asked for."""

    text: str
    ok: bool


@dataclass(frozen=True)
class Case:
    """One thing that is tried: ``run`` measures and judges, and is the same for both sides."""

    run: Callable[[Side, Path], Result]

    @property
    def name(self) -> str:
        """Name of the function."""
        return self.run.__name__

    @property
    def title(self) -> str:
        """Its docstring: what is tried, a colon, and what is asked for."""
        return (self.run.__doc__ or self.name).rstrip(".")

    def attempt(self, side: Side, folder: Path) -> Result:
        """Run with a fixed seed; an error is a result too."""
        pl.seed_everything(SEED, verbose=False)
        try:
            return self.run(side, folder)
        except Exception as error:  # whatever a callback raises is what is measured
            return Result(shortened(f"{type(error).__name__}: {error}"), ok=False)


def shortened(message: str) -> str:
    """A message in one line that fits in a table."""
    text = " ".join(message.replace("|", "/").split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def expected(module: pl.LightningModule, share: float = HALF) -> int:
    """The zeros that were asked for."""
    return round(share * sum(getattr(m, name).numel() for m, name in weights(module)))


def count(module: pl.LightningModule, share: float = HALF) -> Result:
    """Whether the module has the zeros that were asked for."""
    return Result(f"{zeros(module)} of {expected(module, share)} zeros", zeros(module) == expected(module, share))


def checkpointed(side: Side, folder: Path, module: pl.LightningModule, **options: Any) -> pl.Trainer:
    """Train two epochs and keep the checkpoint of each."""
    keep = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
    runner = trainer(side.callback(module, **options), keep)
    runner.fit(module, batches())
    return runner


def other_net() -> Net:
    """The module as another process would make it, with weights of its own."""
    torch.manual_seed(1)
    return Net()
