"""A loader over the same data that shares no state with one that may be running, shared out among processes."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, cast

import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, Sampler, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from reflow_lightning.running.compat.lightning import wrapped_sampler
from reflow_lightning.running.compat.torch import forget_iterator
from reflow_lightning.running.detaching import Detaching
from reflow_lightning.running.isolation import isolated_rng


def fresh(loader: Any, *, shuffle: bool, seed: int, rank: int = 0, world_size: int = 1) -> Iterable[Any]:
    """A loader over the same data that shares no state with the given one, which may be running.

    Iterating a running loader again is no way: with persistent workers that ends its epoch. Its samplers, data set and
    collate function are copied with the state that they keep, except large data; see `Detaching`.

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
    copies = Detaching()
    if not isinstance(loader, DataLoader):
        if isinstance(loader, (list, tuple)):
            return loader
        given, loader = loader, copies.of(loader)
        if iter(loader) is loader:
            raise TypeError(
                f"a {type(loader).__name__} is an iterator and can't be read afresh: "
                "pass calibration_data=lambda: ... that makes one"
            )
        if loader is given and hasattr(loader, "load_state_dict"):  # it keeps its place, which may be the training's
            loader = copy.copy(loader)
        return cast("Iterable[Any]", loader)
    generator = torch.Generator().manual_seed(seed)
    if type(loader).__iter__ is not DataLoader.__iter__:  # a loader that makes its batches in its own way
        return _detached_loader(loader, copies, generator)
    dataset: Any = copies.of(loader.dataset)
    if isinstance(dataset, IterableDataset) and iter(dataset) is dataset:
        raise TypeError(
            f"dataset {type(dataset).__name__} is its own iterator and can't be read afresh: "
            "pass calibration_data=lambda: ... that makes another"
        )
    options: dict[str, Any] = {
        "collate_fn": copies.of(loader.collate_fn),
        "num_workers": loader.num_workers,
        "pin_memory": loader.pin_memory,
        "timeout": loader.timeout,
        "worker_init_fn": loader.worker_init_fn,
        "multiprocessing_context": loader.multiprocessing_context,
        "prefetch_factor": loader.prefetch_factor,
        "generator": generator,
    }
    if isinstance(dataset, IterableDataset):
        return DataLoader(dataset, batch_size=loader.batch_size, drop_last=loader.drop_last, **options)
    batching, batch_size, drop_last, sampler = loader.batch_sampler, loader.batch_size, loader.drop_last, loader.sampler
    if type(batching) is BatchSampler:  # the loader's own, or one that was passed in and hides the three
        batch_size, drop_last, sampler = batching.batch_size, batching.drop_last, batching.sampler
    elif batching is not None:
        return DataLoader(dataset, batch_sampler=_drawing(batching, copies, generator), **options)
    alone = _of_one_process(sampler, shuffle, copies, generator, seed)
    if alone is None:  # the user's own sampler knows what to draw, on which rank
        sampler = _drawing(sampler, copies, generator)
        return DataLoader(dataset, batch_size=batch_size, drop_last=drop_last, sampler=sampler, **options)
    if batch_size is None:
        return DataLoader(dataset, batch_size=None, sampler=EveryNth(alone, rank, world_size), **options)
    shared = EveryNth(BatchSampler(alone, batch_size, drop_last), rank, world_size)
    return DataLoader(dataset, batch_sampler=shared, **options)


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


def _of_one_process(sampler: Any, shuffle: bool, copies: Detaching, generator: torch.Generator, seed: int) -> Any:
    """What would draw if this process were alone; ``None`` if that is not known."""
    shared_out = wrapped_sampler(sampler)
    if shared_out is not None:
        return Seeded(_drawing(shared_out, copies, generator), seed)
    if type(sampler) not in (SequentialSampler, RandomSampler, DistributedSampler):
        return None
    if isinstance(sampler, RandomSampler):
        return _drawing(sampler, copies, generator)
    data: Any = sampler.dataset if isinstance(sampler, DistributedSampler) else sampler.data_source
    shuffle = shuffle or (isinstance(sampler, DistributedSampler) and sampler.shuffle)
    return RandomSampler(data, generator=generator) if shuffle else SequentialSampler(data)


def live_parts(loader: Any) -> list[str]:
    """What of a loader changes as it is read and can't be copied, by its type: reading it disturbs the running one.

    Example:
        >>> live_parts([1, 2]), live_parts(iter(x for x in [1, 2]))
        ([], ['generator'])
    """
    copies = Detaching()
    if not isinstance(loader, DataLoader):
        copied = copies.of(loader)
        return copies.live or ([type(loader).__name__] if iter(copied) is copied else [])
    copies.of([loader.sampler, loader.batch_sampler])
    if not loader.num_workers:  # or what is read lives in other processes
        dataset: Any = copies.of([loader.dataset, loader.collate_fn])[0]
        if isinstance(dataset, IterableDataset) and iter(dataset) is dataset:
            copies.live.append(type(dataset).__name__)
    return copies.live


def _detached_loader(loader: DataLoader[Any], copies: Detaching, generator: torch.Generator) -> DataLoader[Any]:
    copied = copy.copy(loader)
    own: dict[str, Any] = {
        name: copies.of(vars(loader)[name]) for name in ("dataset", "collate_fn") if name in vars(loader)
    }
    for name in ("sampler", "batch_sampler"):
        if name in vars(loader):
            own[name] = _drawing(vars(loader)[name], copies, generator)
    vars(copied).update(own, generator=generator, persistent_workers=False)  # past its own __setattr__
    forget_iterator(copied)
    return copied


def _drawing(sampler: Any, copies: Detaching, generator: torch.Generator) -> Any:
    """A copy of a sampler, and of the one within it, that draws from a generator of its own."""
    copied = copies.of(sampler)
    if copied is sampler:  # its state can't be copied, its generator can be replaced nevertheless
        copied = copy.copy(sampler)
    if hasattr(copied, "generator"):
        copied.generator = generator
    if hasattr(copied, "sampler"):
        copied.sampler = _drawing(copied.sampler, copies, generator)
    return copied
