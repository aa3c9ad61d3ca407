"""The batches that a network is calibrated on in a training: fresh, and no more than the trainer's limits allow."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from itertools import chain, islice
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader

from reflow_lightning.callbacks.recent import Recent
from reflow_lightning.running.batches import Limit
from reflow_lightning.running.compat.lightning import before_transfer, is_one
from reflow_lightning.running.fresh import EveryNth, fresh
from reflow_lightning.running.own import own
from reflow_lightning.running.processes import together
from reflow_lightning.running.world import share

CalibrationData = DataLoader | pl.LightningDataModule | Callable[[], Iterable[Any]] | str  # type: ignore[type-arg]
"""Where the batches are from; see `Reflow`."""

Source = CalibrationData | Recent
"""The same, or the last batches trained on."""


def shown(value: Any) -> str:
    """A value within a message: as it is written, or its type if that is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"a {type(value).__name__}"


def check_calibration_data(data: Any) -> None:
    """Check what can be checked without a trainer.

    Raises:
        ValueError: If it is neither a known name nor something that gives batches.
    """
    known = data in ("train", "val", "recent") if isinstance(data, str) else callable(data)
    if not known and not (isinstance(data, DataLoader) or is_one(data, "LightningDataModule")):
        raise ValueError(
            f"calibration_data={shown(data)} must be 'train', 'val', 'recent', a DataLoader, a LightningDataModule "
            "or a callable that returns batches, such as lambda: batches"
        )


def calibration_batches(trainer: pl.Trainer, data: Source, seed: int) -> Generator[Any, None, None]:
    """Batches from a fresh loader, through the module's transfer hooks as in training; the running one is not touched.

    Args:
        trainer: The running trainer.
        data: See `Reflow`.
        seed: Seed of their order, the same on every rank.

    Returns:
        No more than the trainer's limits allow.

    Raises:
        ValueError: If the training has no such loader.
    """
    if isinstance(data, Recent):
        yield from data
        return
    module = trainer.lightning_module
    source = _source(trainer, data, seed)  # the validation loader is set up now, and its length known
    most = _most_batches(trainer, data)
    for batch in islice(source, None if most is None else share(most)):
        batch = trainer.precision_plugin.convert_input(own(batch))  # the hooks may change what the data set holds
        batch = before_transfer(module, batch)
        yield trainer.strategy.batch_to_device(batch, dataloader_idx=0)


def loader_of(data: Any) -> Any:
    """The loader that a data module is calibrated on: ``calibration_dataloader`` if it has one, else the training's."""
    return getattr(data, "calibration_dataloader", data.train_dataloader)()


def _source(trainer: pl.Trainer, data: CalibrationData, seed: int) -> Iterable[Any]:
    ranks = {"rank": trainer.global_rank, "world_size": trainer.world_size}
    if is_one(data, "LightningDataModule"):
        return _training_batches(loader_of(data), seed, ranks)
    if isinstance(data, DataLoader):
        return fresh(data, shuffle=False, seed=seed, **ranks)
    if callable(data):
        batches = data()
        if isinstance(batches, DataLoader):
            return fresh(batches, shuffle=False, seed=seed, **ranks)
        return EveryNth(batches, **ranks)
    if data == "train":  # with overfit_batches, the batches that are trained on, which are the first
        return _training_batches(trainer.train_dataloader, seed, ranks, shuffle=not _overfits(trainer))
    return _validation_batches(trainer, seed, ranks)


def prepare_data(trainer: pl.Trainer, data: pl.LightningDataModule) -> None:
    """Prepare a data module that the trainer does not know, on one process of each machine, and set it up on all."""
    if data is getattr(trainer, "datamodule", None):
        return
    with together("preparing the calibration data"):
        if trainer.local_rank == 0:
            data.prepare_data()
    with together("setting up the calibration data"):
        data.setup("fit")


def _training_batches(loaders: Any, seed: int, ranks: dict[str, int], shuffle: bool = True) -> Iterable[Any]:
    is_combined = is_one(loaders, "CombinedLoader")
    if not is_combined and not isinstance(loaders, (Mapping, list, tuple)):
        return fresh(loaders, shuffle=shuffle, seed=seed, **ranks)
    combined = CombinedLoader(loaders.iterables if is_combined else loaders, "max_size_cycle")
    combined.flattened = [fresh(loader, shuffle=shuffle, seed=seed) for loader in combined.flattened]
    return EveryNth((batch for batch, _, _ in combined), **ranks)  # first combined, then shared out, as one would read


def _validation_batches(trainer: pl.Trainer, seed: int, ranks: dict[str, int]) -> Iterable[Any]:
    """The batches of all validation loaders, one loader after the other, each within its limit."""
    if trainer.val_dataloaders is None and trainer.enable_validation:  # the trainer has not needed them yet
        trainer.validating = True
        trainer.fit_loop.epoch_loop.val_loop.setup_data()
        trainer.training = True
    if trainer.val_dataloaders is None:
        raise ValueError("calibration_data='val', but the training has no validation loader: use 'train'")
    loaders = CombinedLoader(trainer.val_dataloaders).flattened
    limited = _is_limited(trainer.limit_val_batches)
    limits = [int(limit) if limited and limit != float("inf") else None for limit in trainer.num_val_batches]
    batches = [fresh(loader, shuffle=True, seed=seed, **ranks) for loader in loaders]
    return chain.from_iterable(islice(part, limit) for part, limit in zip(batches, limits, strict=True))


def _overfits(trainer: pl.Trainer) -> bool:
    return bool(getattr(trainer, "overfit_batches", 0))


def batch_limit(trainer: pl.Trainer, data: Source, wanted: Limit) -> Limit:
    """This process's share of the wanted batches, if a number is wanted.

    Of all together there are no more than ``limit_train_batches`` or ``limit_val_batches`` allow, if the user set one.
    """
    if wanted == "auto":
        return wanted  # the batches end by themselves where the trainer is limited
    most = _most_batches(trainer, data)
    return share(wanted if most is None else min(wanted, most))


def _most_batches(trainer: pl.Trainer, data: Source) -> int | None:
    """How many batches of all processes together the trainer's limits allow, at least one; ``None``: any number."""
    most: float = float("inf")
    if (data == "train" or is_one(data, "LightningDataModule")) and _is_limited(trainer.limit_train_batches):
        most = trainer.num_training_batches * trainer.world_size
    if data == "val" and _is_limited(trainer.limit_val_batches):
        most = sum(trainer.num_val_batches) * trainer.world_size
    return None if most == float("inf") else max(1, int(most))


def _is_limited(limit: float | None) -> bool:
    return isinstance(limit, int) or limit not in (None, 1.0)  # the integer 1 is one batch, the float 1.0 all of them
