"""A step is what Lightning counts; where it counts none and weights move, it is a batch."""

import warnings

import torch
from helpers import Module, loader, trainer
from torch import nn

from reflow_lightning import OneShot, Reflow


class Hidden(Module):
    """Steps past Lightning's optimizer every so many batches."""

    def __init__(self, counted=False, every=1):
        super().__init__(manual=True)
        self.counted, self.every = counted, every

    def training_step(self, batch, batch_idx):
        nn.functional.cross_entropy(self(batch[0]), batch[1]).backward()
        if (batch_idx + 1) % self.every:
            return
        optimizer = self.optimizers()
        (optimizer if self.counted else optimizer.optimizer).step()
        optimizer.zero_grad()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def pruned_at(module, step):
    reflow = Reflow(0.5, schedule=OneShot(step=step), repair="none", monitor=False)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        trainer(reflow, max_epochs=3).fit(module, loader())
    return [event.step for event in reflow.events], sum("counts no optimizer steps" in str(w.message) for w in told)


def test_batches_count_where_no_step_is_counted():
    assert pruned_at(Hidden(), 3) == ([3], 1)


def test_a_counted_step_is_a_step_though_batches_are_gathered_for_it():
    assert pruned_at(Hidden(counted=True, every=2), 3) == ([3], 0)


def test_batches_before_the_first_move_count_too():
    assert pruned_at(Hidden(every=4), 6) == ([6], 1)
