"""Trainings that are stopped and resumed, and how they are compared."""

import copy
from itertools import islice

import lightning.pytorch as pl
import pytest
import torch
from helpers import Module, loader, selected_size, trainer
from torch import nn
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, Sampler

from reflow_lightning import Gradual, OneShot, Reflow
from reflow_lightning.pruning import Masks

SIZE = selected_size(Module())
HALF = round(0.5 * SIZE)
STEPS = 8  # two epochs of four batches

QUIET = [
    pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint need to be provided"),
    pytest.mark.filterwarnings("ignore:.*resuming from a checkpoint that ended before the epoch ended"),
    pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*before.*optimizer.step"),
    pytest.mark.filterwarnings("ignore:.*has no BatchNorm layer with running statistics"),
]


class Deterministic(Module):
    """Draws nothing at random once it is made."""

    def __init__(self, seed: int = 0, optimizer: str = "sgd", decays: bool = False, normalised: bool = True) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            super().__init__(optimizer)
        self.decays = decays
        for index in (3,) if normalised else (1, 3, 5):
            self.net[index] = nn.Identity()

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        if not self.decays:
            return optimizer
        return [optimizer], [{"scheduler": StepLR(optimizer, 3, gamma=0.3), "interval": "step"}]


class EpochOrder(Sampler):
    """Another order in every epoch; Lightning tells its number."""

    epoch = 0

    def __len__(self):
        return 64

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        return iter(torch.randperm(len(self), generator=torch.Generator().manual_seed(self.epoch)).tolist())


class KeepsItsPlace:
    """Starts in the middle of an epoch, where Lightning restores how many of its batches were done."""

    done = skip = 0

    def resumed(self, batches):
        self.done, self.skip = self.skip, 0
        for batch in islice(batches, self.done, None):
            self.done += 1
            yield batch

    def state_dict(self):
        return {"done": self.done}

    def load_state_dict(self, state_dict):
        self.skip = state_dict["done"] % len(self)


class Resumable(KeepsItsPlace, DataLoader):
    """A DataLoader that keeps its place."""

    def __init__(self) -> None:
        super().__init__(loader().dataset, batch_size=16, sampler=EpochOrder())

    def __iter__(self):
        return self.resumed(super().__iter__())


class OwnLoader(KeepsItsPlace):
    """A loader that is no DataLoader and keeps its place."""

    def __init__(self) -> None:
        self.loader = DataLoader(loader().dataset, batch_size=16, sampler=EpochOrder())
        self.sampler, self.set_epoch = self.loader.sampler, self.loader.sampler.set_epoch

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        return self.resumed(self.loader)


class Save(pl.Callback):
    """Saves a checkpoint whenever the trainer calls a hook."""

    def __init__(self, folder, hook="on_train_batch_end") -> None:
        self.folder, self.paths = folder, []
        setattr(self, hook, self.save)

    def save(self, trainer, *args):
        if not trainer.sanity_checking:
            self.paths.append(self.folder / f"{len(self.paths)}.ckpt")
            trainer.save_checkpoint(self.paths[-1], weights_only=False)


class Current(pl.Callback):
    """The weights at the end of a training, before their average takes their place."""

    weights = None

    def on_train_end(self, trainer, pl_module):
        self.weights = copy.deepcopy(pl_module.state_dict())


def reflow(schedule, sparsity=0.5, **options):
    return Reflow(sparsity, schedule=schedule, **{"calibration_batches": 2, "monitor": False} | options)


def fit(module, *callbacks, ckpt_path=None, batches=None, **options):
    """Train, from the start or from a checkpoint, and tell all that was reached."""
    current = Current()
    runner = trainer(current, *callbacks, **options)
    runner.fit(module, batches or Resumable(), loader(32, shuffle=False), ckpt_path=ckpt_path, weights_only=True)
    return {
        "steps": runner.global_step,
        "module": dict(module.state_dict()),
        "current": dict(current.weights or module.state_dict()),  # the latter where nothing was left to train
        "optimizers": [optimizer.state_dict() for optimizer in runner.optimizers],
        "learning rates": [config.scheduler.state_dict() for config in runner.lr_scheduler_configs],
        "callbacks": [callback.state_dict() for callback in callbacks if isinstance(callback, Reflow)],
    }


def same(first, second):
    """Equal to the last bit, however nested."""
    if type(first) is not type(second):
        return False
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and first.numpy().tobytes() == second.numpy().tobytes()
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


def exact(folder, callbacks=list, hook="on_train_batch_end", batches=Resumable, model=None, **options):
    """Of every checkpoint that a run saves in a hook: whether a run resumed from it ends as this one does."""
    save = Save(folder, hook)
    whole = fit(Deterministic(0, **model or {}), *callbacks(), save, batches=batches(), **options)
    resumed = (
        fit(Deterministic(1, **model or {}), *callbacks(), ckpt_path=path, batches=batches(), **options)
        for path in save.paths
    )
    return [same(whole, other) for other in resumed]


def saved(folder, *callbacks, **options):
    """The checkpoints of a run, by the number of steps that were done."""
    save = Save(folder)
    fit(Deterministic(0), *callbacks, save, **options)
    return dict(enumerate(save.paths, start=1))


def averages():
    """Where Lightning has its averages of weights, which came with 2.6."""
    if not hasattr(pl.callbacks, "EMAWeightAveraging"):
        pytest.skip("this Lightning has no averaging callback")
    return pl.callbacks


AVERAGES = {
    "exponential": lambda: averages().EMAWeightAveraging(decay=0.5),
    "exponential, own buffers": lambda: averages().EMAWeightAveraging(decay=0.5, use_buffers=False),
    "exponential, from step 5": lambda: averages().EMAWeightAveraging(decay=0.5, update_starting_at_step=5),
    "equal": lambda: averages().WeightAveraging(),
}
SCHEDULES = [
    OneShot(),
    OneShot(step=3),
    OneShot(epoch=1),
    OneShot(fraction=1.0),
    Gradual(every_n_steps=1),
    Gradual(every_n_steps=2, end=0.9),
]
SOME_SCHEDULES = [OneShot(step=3), Gradual(every_n_steps=1)]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
some_schedules = pytest.mark.parametrize("schedule", SOME_SCHEDULES, ids=repr)
both_orders = pytest.mark.parametrize("order", [1, -1], ids=["Reflow first", "Reflow last"])


def pruned(masks):
    return 0 if masks is None else sum(int((~mask).sum()) for mask in masks.values())


def loaded(path):
    module = Deterministic(2)
    module.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    return module


def masks_in(path):
    [state] = [s for key, s in torch.load(path, weights_only=True)["callbacks"].items() if "Reflow" in key]
    return None if state["masks"] is None else Masks.from_state_dict(state["masks"])
