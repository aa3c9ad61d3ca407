"""`lightning.pytorch` and `pytorch_lightning` are twins with classes of their own: everything works with either."""

import importlib

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from reflow_lightning import Iterative, OneShot, Reflow, SignalMonitor


@pytest.fixture(params=["lightning.pytorch", "pytorch_lightning"])
def pl(request):
    pytest.importorskip(request.param)
    importlib.import_module(f"{request.param}.loggers")
    return importlib.import_module(request.param)


def loader(count=32):
    return DataLoader(TensorDataset(torch.randn(count, 4, generator=torch.Generator().manual_seed(0))), 8)


def module_of(pl):
    class Net(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, _):
            return self(batch["a"][0] if isinstance(batch, dict) else batch[0]).square().mean()

        def validation_step(self, batch, _):
            self.log("loss", self(batch[0]).square().mean())

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    return Net()


def fit(pl, reflow, *data, callbacks=(), **options):
    quiet = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = pl.Trainer(
        max_epochs=2, callbacks=[reflow, *callbacks], **quiet | {"enable_checkpointing": False} | options
    )
    module = module_of(pl)
    trainer.fit(module, *data)
    return module, trainer


def reflow(**arguments):
    return Reflow(0.5, **{"schedule": OneShot(epoch=1), "calibration_batches": 4, **arguments})


def test_a_data_module_gives_calibration_data(pl):
    class Data(pl.LightningDataModule):
        def calibration_dataloader(self):
            return loader()

        def train_dataloader(self):
            raise AssertionError("the calibration loader is asked for")

    callback = reflow(calibration_data=Data())
    fit(pl, callback, loader())
    assert callback.events[0].calibration.batches == 4


@pytest.mark.parametrize("mode", ["max_size_cycle", "min_size", "max_size"])
def test_a_combined_loader_is_read_anew(pl, mode):
    combined = importlib.import_module(f"{pl.__name__}.utilities").CombinedLoader
    loaders, forward = combined({"a": loader(), "b": loader()}, mode), lambda m, b: m(b["a"][0])
    callback = reflow(forward=forward, monitor=False)
    fit(pl, callback, loaders)
    assert callback.events[0].calibration.batches == 4


def test_tensorboard_gets_the_picture_of_the_signal(pl, tmp_path):
    logger = pl.loggers.TensorBoardLogger(tmp_path)
    pictures = []
    logger.experiment.add_figure = lambda *arguments: pictures.append(arguments[0])
    fit(pl, reflow(), loader(), logger=logger)
    assert sorted(set(pictures)) == ["activations/by_layer", "activations/over_training", "activations/values"]


def test_rounds_are_judged(pl):
    callback = Reflow(
        0.5, schedule=Iterative(amount=0.5, every_n_epochs=1, stop_on_drop=10.0, monitor="loss", mode="min")
    )
    fit(pl, callback, loader(), loader())
    assert [row.value is not None for row in callback.rounds] == [True, True]


def test_averages_are_pruned_too(pl):
    if not hasattr(pl.callbacks, "EMAWeightAveraging"):
        pytest.skip("this Lightning has no averaging callback")
    average = pl.callbacks.EMAWeightAveraging()
    callback = reflow()
    module, _ = fit(pl, callback, loader(), callbacks=[average])
    for name, mask in callback.masks.items():
        assert (module.get_parameter(name)[~mask] == 0).all()


def test_a_checkpoint_is_resumed(pl, tmp_path):
    _, trainer = fit(pl, reflow(), loader(), enable_checkpointing=True, default_root_dir=tmp_path)
    callback = reflow()
    quiet = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    again = pl.Trainer(max_epochs=3, callbacks=[callback, SignalMonitor(2)], default_root_dir=tmp_path, **quiet)
    again.fit(module_of(pl), loader(), ckpt_path=trainer.checkpoint_callback.best_model_path)
    assert callback.completed
    assert callback.events == []


def test_a_strategy_that_flattens_weights_is_refused(pl):
    from reflow_lightning.callbacks.strategies import check_strategy

    class Trainer:
        strategy = importlib.import_module(f"{pl.__name__}.strategies").FSDPStrategy(accelerator=None)

    with pytest.raises(ValueError, match="strategy=FSDPStrategy flattens"):
        check_strategy(Trainer())
