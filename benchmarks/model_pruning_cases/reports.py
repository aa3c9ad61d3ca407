"""Cases of what is written, what is read, and what it costs."""

from __future__ import annotations

import gc
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import yaml
from lightning.pytorch.loggers import CSVLogger
from lightning_utilities.core import rank_zero

from model_pruning_cases.case import HALF, Result, expected
from model_pruning_cases.sides import STEPS, Net, Side, batches, trainer, zeros


def reported(side: Side, folder: Path) -> Result:
    """The sparsity in the log after four prunings: what counting gives."""
    module = Net()
    with log_lines() as lines:
        trainer(side.callback(module, share=0.8, parts=4), epochs=4).fit(module, batches())
    found = re.findall(r"-> \d+/\d+ \(([\d.]+)%\)|sparsity ([\d.]+)", "\n".join(lines))
    percent, share = found[-1]
    said, counted = float(percent) / 100 if percent else float(share), zeros(module) / expected(module, 1.0)
    return Result(f"{100 * said:.2f} % reported, {100 * counted:.2f} % counted", abs(said - counted) < 1e-4)


@contextmanager
def log_lines() -> Iterator[list[str]]:
    """What Lightning and its callbacks write to Python's log meanwhile, as Lightning or its twin has named that."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    written = rank_zero.log  # of whichever of the two was imported last
    before = written.level
    written.addHandler(handler)
    written.setLevel(logging.INFO)  # which the application, in the same process, makes quieter
    try:
        yield lines
    finally:
        written.removeHandler(handler)
        written.setLevel(before)


def loggers(side: Side, folder: Path) -> Result:
    """A logger: gets the sparsity."""
    module = Net()
    trainer(side.callback(module), logger=CSVLogger(folder, name="", version="")).fit(module, batches())
    file = folder / "metrics.csv"
    names = set(file.read_text().splitlines()[0].split(",")) - {"step", "epoch"} if file.exists() else set()
    found = sorted(name for name in names if "sparsity" in name)
    return Result(f"{len(found)} metrics of sparsity", bool(found))


def selection_in_yaml(side: Side, folder: Path) -> Result:
    """The choice of one layer is written to YAML and read again: that layer alone is pruned."""
    module = Net()
    selection = yaml.safe_load(yaml.safe_dump(side.selection(module, "net.3")))
    trainer(side.callback(module, selection=selection)).fit(module, batches())
    layer = module.get_parameter("net.3.weight")
    there, asked = int((layer == 0).sum()), round(HALF * layer.numel())
    text = f"{there} of {asked} zeros there, {zeros(module) - there} elsewhere"
    return Result(text, there == asked == zeros(module))


def impossible_share(side: Side, folder: Path) -> Result:
    """A share that cannot be, 1.5: is noticed before anything is trained."""
    module = Net()
    try:
        trainer(side.callback(module, share=1.5)).fit(module, batches())
    except Exception as error:  # whatever it is: asked is when
        return Result(f"{type(error).__name__} after {module.trained} of {2 * STEPS} steps", module.trained == 0)
    return Result("no error", ok=False)


def tensor_bytes() -> int:
    """Bytes of all tensors that are alive."""
    gc.collect()
    tensors = [t for t in gc.get_objects() if type(t) in (torch.Tensor, torch.nn.Parameter)]
    storages = [t.untyped_storage() for t in tensors if t.layout == torch.strided]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def growth(first: int, last: int, module: pl.LightningModule) -> Result:
    """Whether less than a bit a weight was added."""
    added = (last - first) / expected(module, 1.0)
    return Result(f"{added:.2f} bytes a weight more", added < 1 / 8 and zeros(module) > 0)


def memory_of_prunings(side: Side, folder: Path) -> Result:
    """Memory of all tensors in one training: after four prunings as after one."""

    class Watch(pl.Callback):
        def __init__(self) -> None:
            self.bytes: list[int] = []

        def on_train_epoch_end(self, *_: Any) -> None:
            self.bytes.append(tensor_bytes())

    module, watch = Net(), Watch()
    trainer(side.callback(module, share=0.8, parts=4), watch, epochs=4).fit(module, batches())
    return growth(watch.bytes[0], watch.bytes[3], module)


def memory_of_fits(side: Side, folder: Path) -> Result:
    """Memory of all tensors, a module pruned in four trainings, masks kept: after four as after one."""
    module, sizes = Net(), []
    for share in (0.2, 0.4, 0.6, 0.8):
        trainer(side.callback(module, share=share, permanent=False)).fit(module, batches())
        sizes.append(tensor_bytes())
    return growth(sizes[0], sizes[-1], module)
