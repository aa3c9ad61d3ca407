"""Cases in which a training goes on, or another begins."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from model_pruning_cases.case import Result, count, expected, shortened
from model_pruning_cases.sides import Attention, Net, Side, batches, trainer, weights, zeros


def default_targets(side: Side, folder: Path) -> Result:
    """No layers named: biases and BatchNorm weights stay."""
    module = Net()
    trainer(side.callback(module, selection=())).fit(module, batches())
    chosen = {id(getattr(m, name)) for m, name in weights(module)}
    others = [p for p in module.parameters() if id(p) not in chosen]
    gone = sum(int((p == 0).sum()) for p in others)
    return Result(f"{gone} of {sum(p.numel() for p in others)} of them zero", gone == 0 and zeros(module) > 0)


def averaged_weights(side: Side, folder: Path) -> Result:
    """With `EMAWeightAveraging`: the averaged weights have the zeros."""
    from lightning.pytorch.callbacks import EMAWeightAveraging  # later than the first Lightning that is supported

    module = Net()
    trainer(side.callback(module), EMAWeightAveraging(decay=0.9)).fit(module, batches())
    return count(module)


def tested_after_fit(side: Side, folder: Path) -> Result:
    """`test` after `fit`, masks kept, rewinding on: the zeros are there."""
    module = Net()
    runner = trainer(side.callback(module, permanent=False, rewind=True))
    runner.fit(module, batches())
    [metrics] = runner.test(module, batches(), verbose=False)
    seen = int(metrics["test_zeros"])
    return Result(f"{seen} of {expected(module)} zeros tested", seen == expected(module))


def fit_twice(side: Side, **task: Any) -> Result:
    """Train a module for two epochs and, by the same trainer, for another."""
    module = Net()
    runner = trainer(side.callback(module, **task))
    runner.fit(module, batches())
    runner.fit_loop.max_epochs = 3
    runner.fit(module, batches())
    return count(module)


def second_fit(side: Side, folder: Path) -> Result:
    """A second `fit` of the same module, masks applied for good after the first: the zeros stay."""
    return fit_twice(side)


def second_fit_with_masks(side: Side, folder: Path) -> Result:
    """A second `fit` of the same module, masks kept: the zeros stay."""
    return fit_twice(side, permanent=False)


def deepcopy(side: Side, folder: Path) -> Result:
    """Another callback copies the module (`copy.deepcopy`) in training: the copy has the zeros."""

    class Copy(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
            self.module = copy.deepcopy(pl_module)

    module, copying = Net(), Copy()
    trainer(side.callback(module), copying).fit(module, batches())
    return count(copying.module)


def four_parts(side: Side, folder: Path) -> Result:
    """80 % asked for in four equal parts, one after each epoch: 80 % in the end."""
    module = Net()
    trainer(side.callback(module, share=0.8, parts=4), epochs=4).fit(module, batches())
    reached = zeros(module) / expected(module, 1.0)
    return Result(f"{100 * reached:.1f} %", zeros(module) == expected(module, 0.8))


def attention(side: Side, folder: Path) -> Result:
    """A network with `MultiheadAttention`: is pruned and trained on."""
    module = Attention()
    trainer(side.callback(module)).fit(module, batches())
    return count(module)


def in_two_processes(side: Side, folder: Path, epoch: int) -> Result:
    """Prune at random after an epoch, and compare the processes at the end."""
    command = [sys.executable, "-m", "model_pruning_cases.ranks", side.name, str(epoch), str(folder)]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        return Result(shortened(done.stderr.strip().splitlines()[-1]), ok=False)
    first, second = (torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    module = Net()
    module.load_state_dict(torch.load(folder / "epoch=1.ckpt", weights_only=True)["state_dict"])
    differing, saved = int((first != second).sum()), zeros(module)
    text = f"{differing} weights zero in one of them alone, {saved} of {expected(module)} zeros saved"
    return Result(text, differing == 0 and saved == expected(module))


def two_processes(side: Side, folder: Path) -> Result:
    """Two processes of unlike random states, random pruning after the first of two epochs: one mask for both."""
    return in_two_processes(side, folder, epoch=0)


def two_processes_at_the_end(side: Side, folder: Path) -> Result:
    """Two processes of unlike random states, random pruning after the last epoch: one mask for both."""
    return in_two_processes(side, folder, epoch=1)
