"""Batches to calibrate and measure on: fresh, moved to the model, limited."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, Sampler, SequentialSampler
from torch.utils.data.distributed import DistributedSampler
from tqdm import tqdm

BAR_DELAY = 2.0
"""Seconds after which a pass is long enough for a progress bar."""


def move(batch: Any, device: torch.device) -> Any:
    """Move every tensor of a nested batch; whatever has no ``to`` stays as it is.

    Example:
        >>> move({"x": [torch.ones(1), "name"]}, torch.device("cpu"))
        {'x': [tensor([1.]), 'name']}
    """
    if hasattr(batch, "to"):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: move(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(move(value, device) for value in batch))
    if isinstance(batch, (tuple, list)):
        return type(batch)(move(value, device) for value in batch)
    return batch


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter or buffer, or the CPU."""
    tensors = (tensor for group in (model.parameters(), model.buffers()) for tensor in group)
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def take(
    batches: Iterable[Any], max_batches: int, device: torch.device, *, task: str = "", progress: bool = False
) -> Iterator[Any]:
    """Take at most ``max_batches`` batches, on a device.

    Args:
        batches: Any iterable of batches.
        max_batches: At most so many; a warning says if there are fewer.
        device: Where they go.
        task: What is being done, for the progress bar and for messages.
        progress: Show a bar once the pass has taken two seconds.

    Raises:
        ValueError: If ``max_batches`` is less than 1, or nothing comes.
    """
    if isinstance(max_batches, bool) or not isinstance(max_batches, int) or max_batches < 1:
        raise ValueError(f"max_batches={max_batches!r} must be a whole number of at least 1")
    count = 0
    hidden = None if progress else True  # None: hidden where the output is no terminal
    with tqdm(total=max_batches, desc=task, unit="batch", delay=BAR_DELAY, leave=False, disable=hidden) as bar:
        for batch in batches:
            count += 1
            yield move(batch, device)
            bar.update()
            if count == max_batches:
                return
    if not count:
        raise ValueError(f"batches={type(batches).__name__} gave no batch for {task}: pass a loader that is not empty")
    warnings.warn(
        f"{task} got {count} batches, all there were, instead of {max_batches}: give more data, or set "
        f"max_batches={count} (Reflow: calibration_batches={count}) if that is enough",
        stacklevel=3,
    )


def fresh(loader: Any, *, shuffle: bool, seed: int, rank: int = 0, world_size: int = 1) -> Iterable[Any]:
    """A loader over the same data that shares no state with the given one, which may be running.

    Iterating a running loader again is no way: with persistent workers that ends its epoch.

    Args:
        loader: A DataLoader, or another iterable, which then must start anew when iterated.
        shuffle: Draw a map-style dataset in random order where the loader's sampler is sequential. Sorted data give a
            sample of the first classes only.
        seed: Seed of that order.
        rank: This process.
        world_size: Number of processes; each gets its own share of the dataset.

    Raises:
        TypeError: If the loader is an iterator, which can't start anew.

    Example:
        >>> loader = DataLoader(list(range(4)), batch_size=2)
        >>> sorted(torch.cat(list(fresh(loader, shuffle=True, seed=0))).tolist())
        [0, 1, 2, 3]
    """
    if not isinstance(loader, DataLoader):
        if iter(loader) is loader:
            raise TypeError(
                f"a {type(loader).__name__} is an iterator and can't be read afresh: "
                "pass calibration_data=lambda: ... that makes one"
            )
        return cast("Iterable[Any]", loader)
    generator = torch.Generator().manual_seed(seed)
    options: dict[str, Any] = {
        "collate_fn": loader.collate_fn,
        "num_workers": loader.num_workers,
        "pin_memory": loader.pin_memory,
        "timeout": loader.timeout,
        "worker_init_fn": loader.worker_init_fn,
        "multiprocessing_context": loader.multiprocessing_context,
        "prefetch_factor": loader.prefetch_factor,
        "generator": generator,
    }
    if isinstance(loader.dataset, IterableDataset):
        return DataLoader(loader.dataset, batch_size=loader.batch_size, drop_last=loader.drop_last, **options)
    if loader.batch_sampler is not None and type(loader.batch_sampler) is not torch.utils.data.BatchSampler:
        return DataLoader(loader.dataset, batch_sampler=copy.copy(loader.batch_sampler), **options)
    sampler = _fresh_sampler(loader, shuffle, seed, generator, rank, world_size)
    return DataLoader(
        loader.dataset, batch_size=loader.batch_size, drop_last=loader.drop_last, sampler=sampler, **options
    )


def _fresh_sampler(
    loader: DataLoader[Any], shuffle: bool, seed: int, generator: torch.Generator, rank: int, world_size: int
) -> Sampler[Any] | Iterable[Any]:
    dataset: Any = loader.dataset
    known = isinstance(loader.sampler, (SequentialSampler, RandomSampler, DistributedSampler))
    shuffle = shuffle or isinstance(loader.sampler, RandomSampler)
    if not known:
        return copy.copy(loader.sampler)
    if world_size > 1:
        return DistributedSampler(dataset, num_replicas=world_size, rank=rank, shuffle=shuffle, seed=seed)
    return RandomSampler(dataset, generator=generator) if shuffle else SequentialSampler(dataset)
