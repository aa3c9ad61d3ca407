"""Modules whose training step moves weights itself: averages, targets, clipped weights; and what follows them."""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from field_cases.trial import Kind
from reflow_lightning import OneShot, Reflow


class TwoViews(pl.LightningModule):
    """Learns from two views, as a list, which its forward does not take: its training step is run in its place.

    All its parameters are in the optimizer, the frozen ones of the target too.
    """

    def __init__(self, move: Callable[[TwoViews], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.online = nn.Sequential(nn.Linear(8, 1024), nn.BatchNorm1d(1024), nn.ReLU(), nn.Linear(1024, 8))
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.move = move

    def forward(self, x: Tensor) -> Any:
        return self.online(x)

    def training_step(self, batch: Any, _: int) -> Tensor:
        self.move(self)
        one, other = batch["views"]
        return (self(one) - self.target(other)).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


@torch.no_grad()
def _by_lerp(module: TwoViews) -> None:
    for target, online in zip(module.target.parameters(), module.online.parameters(), strict=True):
        target.lerp_(online, 0.1)


def _by_data_in_place(module: TwoViews) -> None:
    for target, online in zip(module.target.parameters(), module.online.parameters(), strict=True):
        target.data.mul_(0.9).add_(0.1 * online.data)


def _by_other_data(module: TwoViews) -> None:
    for target, online in zip(module.target.parameters(), module.online.parameters(), strict=True):
        target.data = 0.9 * target.data + 0.1 * online.data


def _by_state(module: TwoViews) -> None:
    module.target.load_state_dict(module.online.state_dict())


@torch.no_grad()
def _by_clipping(module: TwoViews) -> None:
    for parameter in module.online.parameters():
        parameter.clamp_(-0.2, 0.2)


MOVES: dict[str, Callable[[TwoViews], Any]] = {
    "lerp_": _by_lerp,
    "data in place": _by_data_in_place,
    "other data": _by_other_data,
    "load_state_dict": _by_state,
    "clipped weights": _by_clipping,
}

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}


def views() -> DataLoader[Any]:
    draws = torch.Generator().manual_seed(1)
    x = torch.randn(64, 8, generator=draws)
    items = [{"views": [a, a + 0.1 * torch.randn(8, generator=draws)]} for a in x]
    return DataLoader(items, 16)  # type: ignore[arg-type]


class Bits(pl.Callback):
    """All values after each batch."""

    def __init__(self) -> None:
        self.seen: list[list[bytes]] = []

    def on_train_batch_end(self, *args: Any) -> None:
        self.seen.append([value.numpy().tobytes() for value in args[1].state_dict().values()])


class Logger(pl.loggers.logger.DummyLogger):
    """Takes curves, so that they are measured."""


def train(move: Callable[[TwoViews], Any], *callbacks: pl.Callback) -> list[str]:
    """Train for two epochs of four batches; the warnings."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        trainer = pl.Trainer(max_epochs=2, callbacks=list(callbacks), logger=Logger(), default_root_dir=folder, **QUIET)
        trainer.fit(TwoViews(move), views())
    return [str(warning.message) for warning in told]


def same_bits(move: Callable[[TwoViews], Any], **arguments: Any) -> str:
    plain, pruned = Bits(), Bits()
    train(move, plain)
    told = train(move, pruned, Reflow(0.5, schedule=OneShot(fraction=0.5), **arguments))
    wrong = [text for text in told if "filled weights" in text]
    first = next((n for n, (a, b) in enumerate(zip(plain.seen, pruned.seen, strict=True)) if a != b), 8)
    return f"other bits after batch {first}" if first < 4 else "".join(wrong)


def ties(move: Callable[[TwoViews], Any]) -> str:
    reflow = Reflow(0.5, schedule=OneShot(fraction=0.5), monitor=False)
    train(move, reflow)
    masks = reflow.masks or {}
    names = [name for name in masks if name.startswith("online.")]
    alike = all(torch.equal(masks[name], masks[name.replace("online", "target")]) for name in names)
    return "" if names and alike else "the target has other masks"


def resumes_silently(move: Callable[[TwoViews], Any], sparsity: float) -> str:
    def reflow() -> Reflow:
        return Reflow(sparsity, schedule=OneShot(epoch=1), monitor=False, calibration_batches=4)

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as told:
        path = str(Path(folder) / "last.ckpt")
        first = pl.Trainer(max_epochs=2, callbacks=[reflow()], logger=False, **QUIET)
        first.fit(TwoViews(move), views())
        first.save_checkpoint(path)
        warnings.simplefilter("always")
        told.clear()
        pl.Trainer(max_epochs=3, callbacks=[reflow()], logger=False, **QUIET).fit(
            TwoViews(move), views(), ckpt_path=path
        )
    return next((str(warning.message) for warning in told if "has no effect" in str(warning.message)), "")


KINDS = [
    Kind(
        "steps_that_write",
        "A training step that moves weights, run beside the training, moves them once more",
        "an average by `lerp_`, through `data`, by other `data`, a target by `load_state_dict`, clipped weights; these "
        "also with a criterion that reads data, and without a repair but with curves",
        {f"{name}, repaired": partial(same_bits, move) for name, move in MOVES.items()}
        | {
            "clipped weights, curves alone": partial(same_bits, _by_clipping, repair="none"),
            "clipped weights, wanda": partial(same_bits, _by_clipping, criterion="wanda", monitor=False),
        },
    ),
    Kind(
        "frozen_followers",
        "A frozen average that is in an optimizer has masks of its own, and rounding passes for a schedule cut short",
        "averages and targets by four ways; resumed at two sparsities that no count of weights meets exactly",
        {name: partial(ties, move) for name, move in MOVES.items() if move is not _by_clipping}
        | {f"resumed at {s}": partial(resumes_silently, _by_lerp, s) for s in (0.801, 0.333)},
    ),
]
