"""Batches to calibrate and measure on: fresh, moved to the model, limited."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, MutableMapping
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, Sampler, SequentialSampler
from torch.utils.data.distributed import DistributedSampler
from tqdm import tqdm

from reflow_lightning.running.isolation import isolated_rng
from reflow_lightning.running.processes import gather, warn, world_size

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
    if isinstance(batch, MutableMapping):
        moved = copy.copy(batch)  # keeps its type
        moved.update({key: move(value, device) for key, value in batch.items()})
        return moved
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(move(value, device) for value in batch))
    if isinstance(batch, (tuple, list)):
        return type(batch)(move(value, device) for value in batch)
    return batch


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter or buffer, or the CPU."""
    tensors = (tensor for group in (model.parameters(), model.buffers()) for tensor in group)
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


class Batches:
    """At most ``max_batches`` batches, on a device, and how many there were.

    Args:
        batches: Any iterable of batches.
        max_batches: At most so many. It may be 0 beside other processes.
        device: Where they go.
        task: What is being done, for the progress bar and for messages.
        progress: Show a bar once the pass has taken two seconds.

    Raises:
        ValueError: If ``max_batches`` is less than 1.
        TypeError: If ``batches`` is a single tensor.

    Example:
        >>> list(Batches([torch.ones(1), torch.ones(1)], 1, torch.device("cpu"), task="looking"))
        [tensor([1.])]
    """

    def __init__(
        self, batches: Iterable[Any], max_batches: int, device: torch.device, *, task: str, progress: bool = False
    ) -> None:
        least = 1 if world_size() == 1 else 0
        if isinstance(max_batches, bool) or not isinstance(max_batches, int) or max_batches < least:
            raise ValueError(f"max_batches={max_batches!r} must be a whole number of at least {least}")
        if isinstance(batches, Tensor):
            raise TypeError(f"batches is a tensor of shape {tuple(batches.shape)}: pass a loader or a list, [tensor]")
        self.batches, self.max_batches, self.device, self.task, self.progress = (
            batches,
            max_batches,
            device,
            task,
            progress,
        )
        self.count = 0
        self.asked = self.exhausted = False

    def __iter__(self) -> Iterator[Any]:
        self.asked = True
        hidden = None if self.progress else True  # None: hidden where the output is no terminal
        with tqdm(
            total=self.max_batches, desc=self.task, unit="batch", delay=BAR_DELAY, leave=False, disable=hidden
        ) as bar:
            for batch in islice(self.batches, self.max_batches):
                self.count += 1
                yield move(batch, self.device)
                bar.update()
        self.exhausted = self.count < self.max_batches

    def check(self) -> None:
        """Check, when the pass is over, that there were batches. Where processes run together, all must call it.

        It is enough if one of them had any; a warning says if there were fewer than asked for.

        Raises:
            ValueError: If nothing came on any process, although it was asked for.
        """
        asked, exhausted, got, wanted = zip(
            *gather((self.asked, self.exhausted, self.count, self.max_batches)), strict=True
        )
        if any(asked) and not sum(got):
            kind = type(self.batches).__name__
            raise ValueError(f"batches={kind} gave no batch for {self.task}: pass a loader that is not empty")
        if any(exhausted):
            hint = " (in Reflow: calibration_batches)" if self.task == "calibration" else ""
            warn(
                f"{self.task} got {sum(got)} batches, all there were, instead of max_batches={sum(wanted)}: give more "
                f"data, or ask for {sum(got)} if that is enough{hint}",
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
        world_size: Number of processes; process r of R gets the batches r, r + R, ... of those that a single process
            would get. A sampler, stream or loader of your own is taken to give each process its own.

    Raises:
        TypeError: If the loader or its dataset is an iterator, which can't start anew.

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
        if hasattr(loader, "load_state_dict"):  # it keeps its place, which may be that of the running training
            loader = copy.copy(loader)
        return cast("Iterable[Any]", loader)
    generator = torch.Generator().manual_seed(seed)
    if type(loader).__iter__ is not DataLoader.__iter__:  # a loader that makes its batches in its own way
        return _detached_loader(loader, generator)
    dataset: Any = loader.dataset
    if isinstance(dataset, IterableDataset) and iter(dataset) is dataset:
        raise TypeError(
            f"dataset {type(dataset).__name__} is its own iterator and can't be read afresh: "
            "pass calibration_data=lambda: ... that makes another"
        )
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
    batching, batch_size, drop_last, sampler = loader.batch_sampler, loader.batch_size, loader.drop_last, loader.sampler
    if type(batching) is BatchSampler:  # the loader's own, or one that was passed in and hides the three
        batch_size, drop_last, sampler = batching.batch_size, batching.drop_last, batching.sampler
    elif batching is not None:
        return DataLoader(loader.dataset, batch_sampler=_detached(batching, generator), **options)
    alone = _of_one_process(sampler, shuffle, generator, seed)
    if alone is None:  # the user's own sampler knows what to draw, on which rank
        sampler = _detached(sampler, generator)
        return DataLoader(loader.dataset, batch_size=batch_size, drop_last=drop_last, sampler=sampler, **options)
    if batch_size is None:
        return DataLoader(loader.dataset, batch_size=None, sampler=EveryNth(alone, rank, world_size), **options)
    shared = EveryNth(BatchSampler(alone, batch_size, drop_last), rank, world_size)
    return DataLoader(loader.dataset, batch_sampler=shared, **options)


class EveryNth(Sampler[Any]):
    """What one of several processes takes of a sampler: every ``world_size``-th draw, from number ``rank`` on.

    So a batch is never cut: under BatchNorm a layer's input depends on the whole batch.

    Example:
        >>> list(EveryNth([[0, 1], [2, 3], [4]], rank=0, world_size=2))
        [[0, 1], [4]]
    """

    def __init__(self, draws: Any, rank: int, world_size: int) -> None:
        self.draws, self.rank, self.world_size = draws, rank, world_size

    def __iter__(self) -> Iterator[Any]:
        return islice(self.draws, self.rank, None, self.world_size)

    def __len__(self) -> int:
        return len(range(self.rank, len(self.draws), self.world_size))


class Seeded(Sampler[Any]):
    """The draws of a sampler, the same on every process although it may use the random state of the process.

    Example:
        >>> list(Seeded([1, 2], seed=0))
        [1, 2]
    """

    def __init__(self, draws: Any, seed: int) -> None:
        self.draws, self.seed = draws, seed

    def __iter__(self) -> Iterator[Any]:
        with isolated_rng(self.seed):
            return iter(list(self.draws))

    def __len__(self) -> int:
        return len(self.draws)


def _of_one_process(sampler: Any, shuffle: bool, generator: torch.Generator, seed: int) -> Any:
    """What would draw if this process were alone; ``None`` if that is not known."""
    shared_out = getattr(getattr(sampler, "dataset", None), "_sampler", None)
    if shared_out is not None:  # Lightning wraps a sampler in a DistributedSampler over its draws
        return Seeded(_detached(shared_out, generator), seed)
    if type(sampler) not in (SequentialSampler, RandomSampler, DistributedSampler):
        return None
    if isinstance(sampler, RandomSampler):
        return _detached(sampler, generator)
    data: Any = sampler.dataset if isinstance(sampler, DistributedSampler) else sampler.data_source
    shuffle = shuffle or (isinstance(sampler, DistributedSampler) and sampler.shuffle)
    return RandomSampler(data, generator=generator) if shuffle else SequentialSampler(data)


def _detached_loader(loader: DataLoader[Any], generator: torch.Generator) -> DataLoader[Any]:
    copied = copy.copy(loader)
    own: dict[str, Any] = {
        name: _detached(vars(loader)[name], generator) for name in ("sampler", "batch_sampler") if name in vars(loader)
    }
    vars(copied).update(own, generator=generator, _iterator=None, persistent_workers=False)  # past its own __setattr__
    return copied


def _detached(sampler: Any, generator: torch.Generator) -> Any:
    """A copy of a sampler, and of the one within it, that draws from a generator of its own."""
    copied = copy.copy(sampler)
    if hasattr(copied, "generator"):
        copied.generator = generator
    if hasattr(copied, "sampler"):
        copied.sampler = _detached(copied.sampler, generator)
    return copied
