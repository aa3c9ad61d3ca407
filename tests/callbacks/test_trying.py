"""A training is calibrated with the forward pass that it trains: what differs is told, what fails is replaced."""

import warnings

import lightning.pytorch as pl
import pytest
import torch
import torchmetrics
from helpers import trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from reflow_lightning import OneShot, Reflow


class Restores(pl.LightningModule):
    """Batches are (target, input)."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, _):
        return (self(batch[1]) - batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def pairs(stretch=3.0):
    clean = torch.rand(32, 4, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(clean, stretch * clean + 1), 8)


def fit(module, data, **arguments):
    reflow = Reflow(0.5, **{"schedule": OneShot(epoch=1), "calibration_batches": 4, **arguments})
    seen = []
    reflow.listeners.append(lambda stage, model: seen.append([m.running_mean.clone() for m in norms(model)]))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        trainer(reflow).fit(module, data)
    return [str(w.message) for w in told if "forward" in str(w.message)], seen


def norms(model):
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm1d)]


def test_another_part_of_the_batch_is_noticed_and_taken():
    torch.manual_seed(0)
    [text], by_default = fit(Restores(), pairs())
    assert "layer 'net.0' gets values of mean" in text
    assert "forward='batch[1]' from now on" in text
    torch.manual_seed(0)
    told, by_hand = fit(Restores(), pairs(), forward=lambda m, b: m(b[1]))
    assert told == []
    assert all(torch.equal(a, b) for x, y in zip(by_default, by_hand, strict=True) for a, b in zip(x, y, strict=True))


def test_inputs_that_training_step_changes_are_noticed():
    class Scales(Restores):
        def training_step(self, batch, _):
            return self(batch[0] * 255).square().mean()

    [text], _ = fit(Scales(), pairs())
    assert "pass forward='training_step'" in text


def test_an_augmentation_in_training_step_is_no_difference():
    class Noisy(Restores):
        def training_step(self, batch, _):
            return self(batch[0] + 0.1 * torch.randn_like(batch[0])).square().mean()

    told, _ = fit(Noisy(), pairs())
    assert told == []


def test_layers_that_only_the_training_reaches_are_named():
    class Aux(Restores):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 2)

        def training_step(self, batch, _):
            return self.head(self(batch[0])).square().mean()

    told, _ = fit(Aux(), pairs())
    assert "the training reaches 'head' too; Reflow calibrates with forward='training_step' from now on" in told[0]


def test_a_target_that_no_optimizer_holds_need_not_be_reached():
    class Target(Restores):
        def __init__(self):
            super().__init__()
            self.target = nn.Linear(4, 4)

        def training_step(self, batch, _):
            with torch.no_grad():
                wanted = self.target(batch[0])
            return (self(batch[0]) - wanted).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.net.parameters(), 0.1)

    told, _ = fit(Target(), pairs())
    assert told == []


class NeedsTwo(Restores):
    """Has a forward that the default can't call."""

    def __init__(self):
        super().__init__()
        self.seen = torchmetrics.SumMetric()
        self.outputs = []

    def forward(self, x, scale):
        return self.net(x * scale)

    def training_step(self, batch, _):
        loss = self(*batch).square().mean()
        self.seen(len(batch[0]))
        self.outputs.append(loss)
        self.log("seen", self.seen, on_step=False, on_epoch=True)
        return loss

    def on_train_epoch_end(self):
        self.log("stored", float(len(self.outputs)))
        self.outputs.clear()


def test_where_the_default_fails_a_step_of_the_module_is_taken_and_leaves_no_trace():
    torch.manual_seed(0)
    module = NeedsTwo()
    told, seen = fit(module, pairs())
    assert "Reflow calibrates with forward='training_step'" in told[0]
    assert len(seen) == 3
    assert module.trainer.callback_metrics["seen"] == 32
    assert module.trainer.callback_metrics["stored"] == 4


def test_a_step_is_taken_too_where_the_signal_is_measured_and_nothing_repaired():
    told, seen = fit(NeedsTwo(), pairs(), repair="none")
    assert "Reflow calibrates with forward='training_step'" in told[0]
    assert len(seen) == 3


def test_nothing_is_tried_where_nothing_is_run():
    told, _ = fit(NeedsTwo(), pairs(), repair="none", monitor=False)
    assert told == []


def test_a_forward_that_was_given_and_fails_is_an_error():
    with pytest.raises(TypeError, match="scale"):
        fit(NeedsTwo(), pairs(), forward="batch[0]")


def test_manual_optimization_is_not_stepped_by_a_forward():
    class Manual(NeedsTwo):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, index):
            optimizer = self.optimizers()
            self.manual_backward(super().training_step(batch, index))
            optimizer.step()

    with pytest.raises(RuntimeError, match="a forward pass beside the training may not step"):
        fit(Manual(), pairs(), forward="training_step")
    with pytest.raises(TypeError, match="scale"):  # of the default, since no step works
        fit(Manual(), pairs())


def test_a_step_sees_the_trainer_in_the_dense_copy_too():
    class Warm(Restores):
        def forward(self, x):
            self.log("mean", x.mean())
            self.logger.experiment.add_scalar("x", 1)
            return self.net(x) * (1 + self.trainer.current_epoch)

        def training_step(self, batch, _):
            return self.net(batch[0]).square().mean()

    module = Warm()
    before = {}
    reflow = Reflow(0.0, schedule=OneShot(epoch=1), calibration_batches=4, repair="moments")
    reflow.listeners.append(lambda stage, m: before.setdefault(stage, m.net[3].weight.clone()))
    trainer(reflow).fit(module, pairs())
    assert torch.allclose(before["dense"], before["repaired"], atol=1e-5)
    assert "mean" not in module.trainer.callback_metrics


class OnNamed(Restores):
    """Takes batches that have names, of which the default knows none."""

    def training_step(self, batch, _):
        return (self(batch["noisy"]) - batch["clean"]).square().mean()

    validation_step = training_step


class Named(torch.utils.data.Dataset):
    def __len__(self):
        return 32

    def __getitem__(self, index):
        return {"noisy": torch.full((4,), float(index)), "clean": torch.zeros(4)}


@pytest.mark.parametrize("data", ["val", lambda: DataLoader(Named(), 8), DataLoader(Named(), 8)])
@pytest.mark.parametrize("repair", ["auto", "none"])
def test_batches_that_are_not_the_trainings_are_tried_before_the_event(data, repair):
    reflow = Reflow(0.5, schedule=OneShot(epoch=1), calibration_batches=4, calibration_data=data, repair=repair)
    with pytest.warns(UserWarning, match="calibrates with forward='training_step'"):
        trainer(reflow).fit(OnNamed(), DataLoader(Named(), 8), DataLoader(Named(), 8))
    assert len(reflow.events) == 1


def test_a_network_that_no_optimizer_trains_is_no_difference_and_no_step_is_run_for_it():
    """As in deep Q-learning, whose step plays in an environment too."""

    class Plays(Restores):
        def __init__(self):
            super().__init__()
            self.target = nn.Linear(4, 4)
            self.played = []

        def training_step(self, batch, _):
            self.played.append(self.trainer.global_step)
            return (self(batch[0]) - self.target(batch[1])).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.net.parameters(), 0.1)

    told, _ = fit(module := Plays(), pairs())
    assert told == []
    assert module.played == list(range(8))


def test_weights_that_a_step_moves_are_where_they_were():
    class Moves(NeedsTwo):
        def __init__(self):
            super().__init__()
            self.average = nn.Linear(4, 2000).requires_grad_(False)  # too large to be taken for a state

        def training_step(self, batch, index):
            with torch.no_grad():
                self.average.weight += 1
            return super().training_step(batch, index)

    torch.manual_seed(0)
    module = Moves()
    before = module.average.weight.clone()
    fit(module, pairs(), exclude="average.*")
    torch.testing.assert_close(module.average.weight, before + 8, rtol=0, atol=1e-4)


def test_a_stream_loses_no_batch_to_a_trial():
    stream = iter([{"x": torch.ones(8, 4)}] * 2)
    reflow = Reflow(0.5, schedule=OneShot(epoch=1), calibration_data=lambda: stream, repair="batchnorm", monitor=False)
    trainer(reflow).fit(Restores(), pairs())
    assert reflow.events[0].calibration.batches == 2


def test_lazy_layers_are_compared_too():
    class Lazy(Restores):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.LazyLinear(8), nn.BatchNorm1d(8), nn.ReLU(), nn.LazyLinear(4))

        def training_step(self, batch, _):
            return self(100 * batch[0] + 50).square().mean()

    told, _ = fit(Lazy(), pairs(), schedule=OneShot(step=2))
    assert "calibrates with forward='training_step' from now on" in told[0]


def test_nothing_is_promised_once_all_is_pruned():
    class Stretched(Restores):
        def training_step(self, batch, _):
            return self(100 * batch[0] + 50).square().mean()

    told, _ = fit(Stretched(), pairs(), schedule=OneShot())
    assert "from now on" not in told[0]
    assert "pass forward='training_step'" in told[0]
