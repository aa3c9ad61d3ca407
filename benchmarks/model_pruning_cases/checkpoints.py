"""Cases in which a training is saved, resumed or loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import SingleDeviceStrategy

from model_pruning_cases.case import Result, checkpointed, count, expected, other_net
from model_pruning_cases.sides import Net, Side, batches, trainer, zeros


def buffer_named_mask(side: Side, folder: Path) -> Result:
    """The module has a buffer `attn_mask`: its checkpoint loads in the plain module."""

    def with_buffer() -> Net:
        module = Net()
        module.register_buffer("attn_mask", torch.ones(2, 2))
        return module

    checkpointed(side, folder, with_buffer())
    module = with_buffer()
    module.load_state_dict(torch.load(folder / "epoch=1.ckpt", weights_only=True)["state_dict"])
    return count(module)


def resume(side: Side, folder: Path) -> Result:
    """Stopped after the pruning, masks applied for good in the checkpoint, resumed: the zeros stay."""
    checkpointed(side, folder, Net())
    module = other_net()
    trainer(side.callback(module)).fit(module, batches(), ckpt_path=folder / "epoch=0.ckpt")
    return count(module)


def resume_with_masks(side: Side, folder: Path) -> Result:
    """Stopped after the pruning, masks kept in the checkpoint, resumed: the zeros stay."""
    checkpointed(side, folder, Net(), permanent=False)
    module = other_net()
    trainer(side.callback(module, permanent=False)).fit(module, batches(), ckpt_path=folder / "epoch=0.ckpt")
    return count(module)


def plain_module(side: Side, folder: Path) -> Result:
    """A checkpoint with masks: loads in the plain module."""
    checkpointed(side, folder, Net(), permanent=False)
    module = other_net()
    module.load_state_dict(torch.load(folder / "epoch=1.ckpt", weights_only=True)["state_dict"])
    return count(module)


def resume_before(side: Side, folder: Path) -> Result:
    """Stopped before the pruning, resumed from other first weights, rewinding on: as if never stopped."""
    uninterrupted, resumed = Net(), other_net()
    checkpointed(side, folder, uninterrupted, epoch=1, rewind=True)
    runner = trainer(side.callback(resumed, epoch=1, rewind=True))
    runner.fit(resumed, batches(), ckpt_path=folder / "epoch=0.ckpt")
    pairs = zip(uninterrupted.parameters(), resumed.parameters(), strict=True)
    differing = sum(int((a != b).sum()) for a, b in pairs)
    text = f"{differing} of {sum(p.numel() for p in resumed.parameters())} parameters differ"
    return Result(text, differing == 0 and zeros(resumed) == expected(resumed))


def metric_and_weights(side: Side, folder: Path) -> Result:
    """Pruned after the only epoch, `ModelCheckpoint(monitor=...)`: the metric saw the zeros that are saved."""
    module = Net()
    best = ModelCheckpoint(folder, monitor="zeros", mode="max")
    trainer(side.callback(module), best, epochs=1).fit(module, batches(), batches())
    assert best.best_model_score is not None
    measured = int(best.best_model_score)
    module.load_state_dict(torch.load(best.best_model_path, weights_only=True)["state_dict"])
    saved = zeros(module)
    return Result(f"{measured} measured, {saved} saved", measured == saved == expected(module))


def tested_elsewhere(side: Side, folder: Path) -> Result:
    """`test` of the last checkpoint in a new module, by the same trainer: the zeros are there."""
    runner = checkpointed(side, folder, Net())
    module = other_net()
    module.load_state_dict(torch.load(folder / "epoch=1.ckpt", weights_only=True)["state_dict"])
    [metrics] = runner.test(module, batches(), verbose=False)
    seen = int(metrics["test_zeros"])
    return Result(f"{seen} of {expected(module)} zeros tested", seen == expected(module))


def strategy(side: Side, folder: Path) -> Result:
    """A strategy that gathers the weights itself: what it gathers is saved."""

    class Gathering(SingleDeviceStrategy):
        def lightning_module_state_dict(self) -> dict[str, Any]:
            return super().lightning_module_state_dict() | {"gathered": torch.ones(1)}

    module = Net()
    runner = trainer(side.callback(module), ModelCheckpoint(folder, filename="{epoch}"), strategy=Gathering("cpu"))
    runner.fit(module, batches())
    saved = torch.load(folder / "epoch=1.ckpt", weights_only=True)["state_dict"]
    return Result("saved" if "gathered" in saved else "left out", "gathered" in saved and zeros(module) > 0)
