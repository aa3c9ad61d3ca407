"""Trainings of random networks with random schedules end with their zeros."""

from dataclasses import replace

import lightning.pytorch as pl
import pytest
import torch
from helpers import trainer
from hypothesis import example, given
from hypothesis import strategies as st
from scenarios.fuzzing import OPTIMIZERS, PRECISIONS, Case, bits, cases, many
from torch.utils.data import DataLoader, TensorDataset
from zoo.layers import data

from reflow_lightning import Gradual, OneShot, Reflow

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*leaves no weight.*", "ignore:.*is not optimal.*", "ignore:.*all there were.*", "ignore:training ended.*"
)

SCHEDULES = st.one_of(
    st.just(OneShot()),
    st.builds(OneShot, step=st.integers(0, 4)),
    st.builds(OneShot, epoch=st.integers(0, 1)),
    st.builds(OneShot, fraction=st.floats(0, 1)),
    st.builds(
        Gradual,
        begin=st.floats(0, 0.4),
        end=st.floats(0.5, 1),
        every_n_steps=st.sampled_from([None, 1, 3]),
        curve=st.sampled_from(["cubic", "linear"]),
    ),
)


class Training(pl.LightningModule):
    def __init__(self, net, optimizer):
        super().__init__()
        self.net = net
        self.optimizer = optimizer

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return self(batch[0]).float().square().mean()

    def configure_optimizers(self):
        return OPTIMIZERS[self.optimizer]([p for p in self.parameters() if p.requires_grad])


def a_training_ends_with_its_zeros(case, schedule, optimizer, accumulated):
    if isinstance(schedule, Gradual):
        case = replace(case, how=case.how | {"pattern": None})
    net = case.model()
    names = list(net.state_dict())
    how = case.fitting(net)
    how["exclude"] = [f"net.{name}" for name in how.get("exclude", ())]
    callback = Reflow(case.sparsities[-1], schedule=schedule, calibration_batches=2, monitor=False, **how)
    batches = DataLoader(TensorDataset(data(32, torch.float32, case.seed)), 8, shuffle=True)
    runner = trainer(callback, precision=PRECISIONS[case.dtype], accumulate_grad_batches=accumulated)
    runner.fit(Training(net, optimizer), batches)
    total = sum(mask.numel() for mask in callback.masks.values())
    assert sum(int((~mask).sum()) for mask in callback.masks.values()) == round(case.sparsities[-1] * total)
    reached = [event.sparsity for event in callback.events]
    assert reached == sorted(reached)
    assert list(net.state_dict()) == names
    for name, mask in callback.masks.items():
        assert not bits(net.get_parameter(name.removeprefix("net."))[~mask]).any()
    assert all(value.isfinite().all() for value in net.state_dict().values())


ARGUMENTS = {
    "case": cases(),
    "schedule": SCHEDULES,
    "optimizer": st.sampled_from(list(OPTIMIZERS)),
    "accumulated": st.sampled_from([1, 2]),
}


PLAIN = {"pattern": None, "allocation": "global", "criterion": "magnitude", "min_kept": 0.0}
FROZEN_IS_BUILT_LIKE_A_SHARED_LAYER = Case(("frozen", "tied"), torch.float32, 0, "normal", (0.5,), PLAIN)
ONLY_THE_FROZEN_MAY_BE_PRUNED = Case(("frozen", "tied_to_embedding"), torch.float32, 0, "normal", (0.5,), PLAIN)
BESIDE_THE_FROZEN_ALL_IS_EMPTY = Case(("frozen", "empty"), torch.float16, 0, "normal", (0.0,), PLAIN)
BY_ROUNDING_ALL_GO = Case(("depthwise",), torch.float32, 0, "normal", (0.99,), PLAIN)


@given(**ARGUMENTS)
@example(BESIDE_THE_FROZEN_ALL_IS_EMPTY, OneShot(), "sgd", 1)
@example(BY_ROUNDING_ALL_GO, Gradual(every_n_steps=1), "sgd", 1)
@example(ONLY_THE_FROZEN_MAY_BE_PRUNED, OneShot(), "sgd", 1)
@example(FROZEN_IS_BUILT_LIKE_A_SHARED_LAYER, OneShot(), "sgd", 1)
@many(25)
def test_a_few_trainings(case, schedule, optimizer, accumulated):
    a_training_ends_with_its_zeros(case, schedule, optimizer, accumulated)


@pytest.mark.slow
@given(**ARGUMENTS)
@many(200)
def test_many_trainings(case, schedule, optimizer, accumulated):
    a_training_ends_with_its_zeros(case, schedule, optimizer, accumulated)
