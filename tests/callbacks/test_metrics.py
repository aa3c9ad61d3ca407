import pickle

import lightning.pytorch as pl
import pytest
import torch
from helpers import images
from torch.utils.data import DataLoader
from torchmetrics import MetricCollection
from zoo.convolutional import small_net

from reflow_lightning.callbacks.metrics import as_metric
from reflow_lightning.signal import CenteredCosine, ClassShare, DeadChannels, LinearCKA, Moments

A, B = torch.randn(2, 12, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 4
PARTS = {
    DeadChannels: lambda rows: (A[rows] * torch.tensor([0, 1, 1]),),
    CenteredCosine: lambda rows: (A[rows], B[rows]),
    LinearCKA: lambda rows: (A[rows], B[rows]),
    ClassShare: lambda rows: (A[rows], LABELS[rows]),
}
every_statistic = pytest.mark.parametrize("kind", PARTS)
BATCHES = [slice(0, 5), slice(5, 7), slice(7, 12)]


def test_forward_of_the_metric_returns_the_batch_and_accumulates():
    metric = as_metric(Moments(1))
    assert metric(torch.tensor([[1.0]])).mean.item() == 1
    assert metric(torch.tensor([[3.0]])).mean.item() == 3
    assert metric.compute().mean.item() == 2
    metric.reset()
    assert metric.state.abs().sum() == 0


@every_statistic
def test_a_metric_tells_what_its_statistic_does(kind):
    statistic, metric, other = kind(3), as_metric(kind(3)), as_metric(kind(3))
    for i, rows in enumerate(BATCHES):
        statistic.update(*PARTS[kind](rows))
        metric.update(*PARTS[kind](rows))
        assert torch.equal(metric.compute(), statistic.compute())
        (other if i else pickle.loads(pickle.dumps(other)))(*PARTS[kind](rows))
    metric.reset()
    metric(*PARTS[kind](BATCHES[0]))
    other.merge_state(metric)
    assert other.compute() == pytest.approx(float(statistic.compute()), rel=1e-6)


def test_it_begins_without_data_and_leaves_the_statistic_alone():
    statistic = Moments(3)
    statistic.update(A)
    metric = as_metric(statistic)
    metric.update(A[:2])
    assert metric.compute().values.tolist() == [2, 2, 2]
    assert statistic.compute().values.tolist() == [12, 12, 12]


def test_collections_take_them():
    found = MetricCollection({"cosine": as_metric(CenteredCosine(3)), "cka": as_metric(LinearCKA(3))})
    found.update(A, A)
    assert {name: round(float(value), 6) for name, value in found.compute().items()} == {"cosine": 1, "cka": 1}
    assert found["cka"].higher_is_better
    assert not as_metric(DeadChannels(3)).higher_is_better


def test_lightning_logs_them_over_an_epoch():
    class Watching(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = small_net()
            self.dead = as_metric(DeadChannels(2))

        def training_step(self, batch, batch_idx):
            self.dead(batch.flatten(1)[:, :2] * torch.tensor([0, 1]))
            self.log("dead", self.dead, on_step=False, on_epoch=True)
            return self.net(batch).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(Watching(), DataLoader(images(8), batch_size=4))
    assert trainer.callback_metrics["dead"] == 0.5


def test_it_must_be_a_statistic():
    with pytest.raises(TypeError, match="statistic=3 must be a Statistic, such as"):
        as_metric(3)


def test_samples_that_wait_do_not_pile_up_when_a_metric_is_called():
    metric, at_once = as_metric(LinearCKA(4)), LinearCKA(4)
    for values in torch.randn(20, 3, 4).unbind():
        metric(values, values + 1)
        at_once.update(values, values + 1)
    assert sum(len(rows) for rows in metric.rows) < 4
    torch.testing.assert_close(metric.compute(), at_once.compute())
