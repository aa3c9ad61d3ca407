"""One training in two processes, of which Lightning starts the second. Arguments: SIDE EPOCH FOLDER."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy

from model_pruning_cases.sides import SIDES, Net, batches, trainer, weights


class OwnRandomState(pl.Callback):
    """Every process draws other numbers, as when nobody sets a seed, or their data are augmented."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seed by rank."""
        torch.manual_seed(trainer.global_rank)


def main(side: str, epoch: int, folder: Path) -> None:
    """Train, prune at random after an epoch, and write where the zeros of this process are."""
    module = Net()
    runner = trainer(
        OwnRandomState(),
        SIDES[side].callback(module, epoch=epoch, random=True),
        ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1),
        strategy=DDPStrategy(process_group_backend="gloo", timeout=timedelta(seconds=60)),
        devices=2,
    )
    runner.fit(module, batches(8))  # half the images for each process, in as many steps
    pruned = torch.cat([(getattr(m, name) == 0).flatten() for m, name in weights(module)])
    torch.save(pruned, folder / f"rank{runner.global_rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
