import lightning.pytorch as pl
import pytest
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, IterableDataset

from reflow_lightning import OneShot, Reflow
from reflow_lightning.calibration import Calibration


class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(1, 4)

    def forward(self, x):
        return self.net(x)

    def training_step(self, x):
        return self(x.mul_(2)).square().mean()

    def configure_optimizers(self):
        return optim.SGD(self.parameters(), 0.1)


class Goes(IterableDataset):
    """A stream whose place can't be copied."""

    def __init__(self):
        self.numbers = (torch.tensor([float(number)]) for number in range(100))

    def __iter__(self):
        return (next(self.numbers) for _ in range(8))


def batches_of(data, loader, schedule=None, **options):
    """The first values of the batches that a training is calibrated on."""
    seen = []

    def repair(model, batches, forward, reference):
        seen.extend(int(batch[0]) for batch in batches)
        return Calibration((), {}, 0, 0.0)

    reflow = Reflow(
        0.5, schedule=schedule or OneShot(step=3), repair=repair, calibration_data=data, monitor=False, **options
    )
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    pl.Trainer(max_epochs=1, accelerator="cpu", callbacks=[reflow], **quiet).fit(Module(), loader)
    return seen, reflow


def numbers():
    return DataLoader(torch.arange(8.0)[:, None])


@pytest.mark.parametrize(("most", "expected"), [(2, [1, 2]), (50, [0, 1, 2]), ("auto", [0, 1, 2])])
@pytest.mark.filterwarnings("ignore:calibration got")
def test_the_last_batches_as_they_were_before_they_were_trained_on(most, expected):
    assert batches_of("recent", numbers(), calibration_batches=most)[0] == expected


@pytest.mark.filterwarnings("ignore:calibration got")
def test_at_the_start_there_is_the_batch_that_is_about_to_be_trained_on():
    assert batches_of("recent", numbers(), OneShot())[0] == [0]


def test_none_are_kept_after_the_last_pruning():
    assert batches_of("recent", numbers(), calibration_batches=2)[1]._once.source == "recent"


def test_they_are_taken_where_the_training_cannot_be_read_twice():
    loader = DataLoader(Goes(), batch_size=1)
    with pytest.warns(UserWarning, match="shares generator with it: the last batches trained on are calibrated on"):
        assert batches_of("train", loader, calibration_batches=2)[0] == [1, 2]


def test_another_name_is_an_error():
    with pytest.raises(ValueError, match="'train', 'val', 'recent'"):
        Reflow(0.5, calibration_data="last")
