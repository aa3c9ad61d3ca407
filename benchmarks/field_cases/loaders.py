"""Loaders whose parts keep a state: calibrating within a training changes nothing of what is trained on."""

from __future__ import annotations

import itertools
import random
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from field_cases.trial import Kind
from reflow_lightning import Gradual, Reflow

QUIET: dict[str, Any] = {
    **dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False),
    "accelerator": "cpu",
}
DATA = torch.arange(32.0)[:, None]


class Shuffles(Sampler[int]):
    """Shuffles a list of its own, and reads it as it goes."""

    def __init__(self) -> None:
        self.order, self.draws = list(range(32)), random.Random(0)

    def __iter__(self) -> Iterator[int]:
        self.draws.shuffle(self.order)
        yield from self.order

    def __len__(self) -> int:
        return 32


class Nested(Shuffles):
    """Keeps its lists deeper, and in slots."""

    def __init__(self) -> None:
        super().__init__()
        self.held = {"orders": [np.arange(32)]}

    def __iter__(self) -> Iterator[int]:
        self.draws.shuffle(order := self.held["orders"][0])
        yield from order.tolist()


class InBatches(Shuffles):
    def __iter__(self) -> Any:
        self.draws.shuffle(self.order)
        for start in range(0, 32, 4):
            yield self.order[start : start + 4]

    def __len__(self) -> int:
        return 8


class Counts(Dataset[Tensor]):
    """What an item is depends on how often items were asked for: a curriculum, a cache, a window."""

    def __init__(self) -> None:
        self.asked, self.seen = torch.zeros(32), []

    def __getitem__(self, place: int) -> Tensor:
        self.asked[place] += 1
        self.seen.append(place)
        return DATA[place] + self.asked[place] + len(self.seen)

    def __len__(self) -> int:
        return 32


class Pops(Counts):
    def __init__(self) -> None:
        self.left = list(range(10_000))

    def __getitem__(self, _: int) -> Tensor:
        return torch.tensor([float(self.left.pop())])


class Rows(IterableDataset[Tensor]):
    """Goes on where it was."""

    def __init__(self) -> None:
        self.place = 0

    def __iter__(self) -> Iterator[Tensor]:
        for _ in range(32):
            self.place += 1
            yield torch.tensor([float(self.place)])


class Once(Rows):
    """Is its own iterator."""

    def __iter__(self) -> Any:
        self.left = 32
        return self

    def __next__(self) -> Tensor:
        if not self.left:
            raise StopIteration
        self.left -= 1
        self.place += 1
        return torch.tensor([float(self.place)])


class Lines(Rows):
    """Reads a file on."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.file.write("\n".join(map(str, range(10_000))))
        self.file.seek(0)

    def __iter__(self) -> Iterator[Tensor]:
        for _ in range(32):
            yield torch.tensor([float(self.file.readline())])


class Generates(Rows):
    """Takes from a generator that was begun before."""

    def __init__(self) -> None:
        self.numbers = (float(number) for number in itertools.count())

    def __iter__(self) -> Iterator[Tensor]:
        for number in itertools.islice(self.numbers, 32):
            yield torch.tensor([number])


class Shifts(list[int]):
    """A collate function that counts its calls."""

    def __call__(self, items: list[Tensor]) -> Tensor:
        self.append(len(self))
        return torch.stack(items) + len(self)


def counting() -> Callable[[list[Tensor]], Tensor]:
    calls, seen = 0, []

    def collate(items: list[Tensor]) -> Tensor:
        nonlocal calls
        calls += 1
        seen.append(calls)
        return torch.stack(items) + calls + len(seen)

    return collate


class Own(InBatches):
    """A loader of one's own."""

    def __iter__(self) -> Any:
        return (DATA[places] for places in super().__iter__())


def only(batch: Any) -> Tensor:
    return batch if isinstance(batch, Tensor) else batch["a"]


class Task(pl.LightningModule):
    """Learns from a loader, or from what it plays itself."""

    def __init__(self, make: Callable[[Task], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.make, self.buffer, self.played = nn.Linear(1, 4), make, [], 0
        self.seen: list[float] = []

    def play(self) -> Iterator[Tensor]:
        for _ in range(32):
            self.played += 1
            self.buffer.append(torch.tensor([float(self.played)]))
        yield from self.buffer
        self.buffer.clear()

    def collate(self, items: list[Tensor]) -> Tensor:
        self.played += 1
        return torch.stack(items) + self.played

    def train_dataloader(self) -> Any:
        return self.make(self)

    def forward(self, x: Tensor) -> Any:
        return self.net(x)

    def training_step(self, batch: Any) -> Tensor:
        x = only(batch)
        self.seen += x.flatten().tolist()
        return self(x).square().mean()

    def configure_optimizers(self) -> Any:
        return optim.SGD(self.parameters(), 1e-9)


class Stream(IterableDataset[Tensor]):
    def __init__(self, make: Callable[[], Iterator[Tensor]]) -> None:
        self.make = make

    def __iter__(self) -> Iterator[Tensor]:
        return self.make()


LOADERS: dict[str, Callable[[Task], Any]] = {
    "a sampler": lambda m: DataLoader(DATA, 4, sampler=Shuffles()),
    "a nested sampler": lambda m: DataLoader(DATA, 4, sampler=Nested()),
    "a batch sampler": lambda m: DataLoader(DATA, batch_sampler=InBatches()),
    "a data set that counts": lambda m: DataLoader(Counts(), 4),
    "a data set that pops": lambda m: DataLoader(Pops(), 4),
    "a stream that goes on": lambda m: DataLoader(Rows(), 4),
    "a stream that is its own iterator": lambda m: DataLoader(Once(), 4),
    "a file that is read on": lambda m: DataLoader(Lines(), 4),
    "a generator that was begun": lambda m: DataLoader(Generates(), 4),
    "a module that plays": lambda m: DataLoader(Stream(m.play), 4),
    "a closure over the module": lambda m: DataLoader(Stream(lambda: m.play()), 4),
    "a partial of a method": lambda m: DataLoader(Stream(partial(Task.play, m)), 4),
    "a collate object": lambda m: DataLoader(DATA, 4, collate_fn=Shifts()),
    "a collate closure": lambda m: DataLoader(DATA, 4, collate_fn=counting()),
    "a collate method": lambda m: DataLoader(DATA, 4, collate_fn=m.collate),
    "a loader of one's own": lambda m: Own(),
    "several loaders": lambda m: {"a": DataLoader(DATA, 4, sampler=Shuffles()), "b": Own()},
    "workers": lambda m: DataLoader(Counts(), 4, sampler=Shuffles(), num_workers=1),
}


def undisturbed(make: Callable[[Task], Any], data: str = "train") -> str:
    seen = []
    for with_it in (False, True):
        module, schedule = Task(make), Gradual(end=0.7, every_n_steps=5)
        given: dict[str, Any] = {"calibration_data": data, "calibration_batches": 3, "repair": "moments"}
        reflow = Reflow(0.5, schedule=schedule, forward=lambda module, batch: module(only(batch)), **given)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pl.Trainer(max_epochs=2, callbacks=[reflow] * with_it, **QUIET).fit(module)
        seen.append(module.seen)
    never, twice = len(set(seen[0]) - set(seen[1])), len(seen[1]) - len(set(seen[1]))
    return "" if seen[0] == seen[1] else f"other samples: {never} of {len(seen[0])} never, {twice} again"


KINDS = [
    Kind(
        "loaders",
        "calibrating reads on what the training reads",
        f"{', '.join(LOADERS)}; calibration_data='train' and 'recent'",
        {name: partial(undisturbed, make) for name, make in LOADERS.items()}
        | {
            f"recent, {name}": partial(undisturbed, LOADERS[name], "recent")
            for name in ("a sampler", "a stream that goes on")
        },
    )
]
