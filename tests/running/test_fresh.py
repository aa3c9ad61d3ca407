import pytest
import torch
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from reflow_lightning.running.fresh import fresh

CPU = torch.device("cpu")


class Stream(IterableDataset):
    def __iter__(self):
        yield from range(10)


def read(loader):
    return torch.cat([batch if torch.is_tensor(batch) else batch[0] for batch in loader]).tolist()


def test_sorted_data_are_shuffled_by_seed():
    loader = DataLoader(list(range(20)), batch_size=4)
    first = read(fresh(loader, shuffle=True, seed=1))
    assert sorted(first) == list(range(20))
    assert first != list(range(20))
    assert first == read(fresh(loader, shuffle=True, seed=1))
    assert first != read(fresh(loader, shuffle=True, seed=2))
    assert read(fresh(loader, shuffle=False, seed=1)) == list(range(20))


def test_a_running_loader_with_persistent_workers_is_not_disturbed():
    loader = DataLoader(TensorDataset(torch.arange(20)), batch_size=4, num_workers=1, persistent_workers=True)
    running = iter(loader)
    seen = next(running)[0].tolist()
    assert len(read(fresh(loader, shuffle=True, seed=0))) == 20
    for batch in running:
        seen += batch[0].tolist()
    assert seen == list(range(20))


def test_own_samplers_and_streams_are_respected():
    weighted = DataLoader(list(range(10)), sampler=WeightedRandomSampler([1.0] + [0.0] * 9, 6), batch_size=3)
    assert read(fresh(weighted, shuffle=True, seed=0)) == [0] * 6
    stream = DataLoader(Stream(), batch_size=5)
    assert read(fresh(stream, shuffle=True, seed=0)) == list(range(10))

    class EveryOther(BatchSampler):
        def __iter__(self):
            yield from list(super().__iter__())[::2]

    batched = DataLoader(list(range(8)), batch_sampler=EveryOther(SequentialSampler(range(8)), 2, False))
    assert read(fresh(batched, shuffle=True, seed=0)) == [0, 1, 4, 5]


def test_collation_is_kept():
    loader = DataLoader([1, 2, 3], batch_size=2, drop_last=True, collate_fn=lambda items: torch.tensor(items) * 10)
    assert read(fresh(loader, shuffle=False, seed=0)) == [10, 20]


def shuffled(n=10, **options):
    return DataLoader(list(range(n)), batch_size=2, shuffle=True, **options)


def as_lightning_shares_it_out(sampler, rank, world_size):
    return DistributedSamplerWrapper(sampler, num_replicas=world_size, rank=rank)


@pytest.mark.parametrize("world_size", [2, 3, 7])
@pytest.mark.parametrize(
    "make",
    [
        lambda rank, n: shuffled(),
        lambda rank, n: DataLoader(list(range(10)), batch_size=2),
        lambda rank, n: DataLoader(list(range(10)), batch_size=None),
        lambda rank, n: DataLoader(
            list(range(10)), 2, sampler=DistributedSampler(range(10), num_replicas=n, rank=rank)
        ),
        lambda rank, n: DataLoader(
            list(range(10)),
            2,
            sampler=as_lightning_shares_it_out(WeightedRandomSampler([1.0] * 5 + [0.0] * 5, 10), rank, n),
        ),
    ],
    ids=["shuffled", "in order", "unbatched", "distributed", "wrapped by Lightning"],
)
def test_ranks_share_out_the_batches_of_a_single_process_and_cut_none(make, world_size):
    def batches(rank, world):
        found = fresh(make(rank, world), shuffle=True, seed=3, rank=rank, world_size=world)
        return [batch.tolist() if isinstance(batch, torch.Tensor) else batch for batch in found]

    alone = batches(0, 1)
    assert len(alone) > 2
    for rank in range(world_size):
        assert batches(rank, world_size) == alone[rank::world_size]


def test_a_sampler_that_lightning_wrapped_is_not_disturbed():
    running = as_lightning_shares_it_out(RandomSampler(range(10)), 0, 2)
    seen = iter(running)
    first = next(seen)
    draws = list(running.dataset)
    list(fresh(DataLoader(list(range(10)), 2, sampler=running), shuffle=True, seed=0, rank=0, world_size=2))
    assert list(running.dataset) == draws
    assert len({first, *seen}) == 5


def test_own_samplers_and_streams_give_each_rank_its_own():
    stream = DataLoader(Stream(), batch_size=5)
    assert read(fresh(stream, shuffle=True, seed=0, rank=1, world_size=2)) == list(range(10))
    assert fresh(own := [[1], [2]], shuffle=True, seed=0, rank=1, world_size=2) is own


def test_an_iterator_is_an_error():
    with pytest.raises(TypeError, match="can't be read afresh"):
        fresh(iter([1]), shuffle=False, seed=0)
    assert list(fresh([1, 2], shuffle=True, seed=0)) == [1, 2]


def test_a_batch_sampler_that_was_passed_in_keeps_its_batches():
    data = list(range(8))
    loader = DataLoader(data, batch_sampler=BatchSampler(SequentialSampler(data), 4, False))
    assert [len(batch) for batch in fresh(loader, shuffle=True, seed=0)] == [4, 4]


@pytest.mark.parametrize("kind", ["weighted", "random", "batch", "loader"])
def test_the_generator_of_a_running_loader_is_not_used(kind):
    class Batches(BatchSampler):
        pass

    def build():
        own = torch.Generator().manual_seed(1)
        data = list(range(20))
        if kind == "weighted":
            return DataLoader(data, sampler=WeightedRandomSampler([1.0] * 20, 20, generator=own))
        if kind == "batch":
            return DataLoader(data, batch_sampler=Batches(RandomSampler(data, generator=own), 4, False))
        if kind == "random":
            return DataLoader(data, sampler=RandomSampler(data, generator=own))
        return DataLoader(data, shuffle=True, generator=own)

    undisturbed, disturbed = build(), build()
    expected = [read(undisturbed), read(undisturbed)]
    first = read(disturbed)
    read(fresh(disturbed, shuffle=True, seed=0))
    assert [first, read(disturbed)] == expected


def test_a_sampler_draws_from_its_own_data():
    data = list(range(100))
    part = DataLoader(data, sampler=RandomSampler(range(10)))
    assert sorted(read(fresh(part, shuffle=True, seed=0))) == list(range(10))
    few = DataLoader(data, sampler=RandomSampler(data, num_samples=20))
    assert len(read(fresh(few, shuffle=True, seed=0))) == 20


def test_a_loader_with_its_own_way_of_making_batches_keeps_it():
    class Scaled(DataLoader):
        def __iter__(self):
            return (batch * 100 for batch in super().__iter__())

    assert read(fresh(Scaled([1, 2], batch_size=2), shuffle=False, seed=0)) == [100, 200]


def test_a_dataset_that_is_its_own_iterator_is_an_error():
    class Once(IterableDataset):
        def __iter__(self):
            return self

        def __next__(self):
            return 1

    with pytest.raises(TypeError, match="Once is its own iterator"):
        fresh(DataLoader(Once()), shuffle=False, seed=0)
