import lightning.pytorch as pl
import pytest
import torch
from helpers import loader, trainer
from torch import nn

from reflow_lightning.experiments.spreading import copy_state
from reflow_lightning.experiments.stages import BestWeights, Stages


class Scripted(pl.LightningModule):
    """Its weight is the number of epochs trained; the validation metric of each epoch is given."""

    def __init__(self, values):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.values = values
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        self.optimizers().step()
        with torch.no_grad():
            self.weight.fill_(self.current_epoch + 1)

    def validation_step(self, batch, batch_idx):
        self.log("val/accuracy", self.values[min(self.current_epoch, len(self.values) - 1)])

    def test_step(self, batch, batch_idx):
        self.log("test/accuracy", 1.0)
        self.log("val/accuracy", 1.0)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.0)


def fit(values, best, **options):
    module = Scripted(values)
    runner = trainer(best, max_epochs=len(values), **options)
    runner.fit(module, loader(8, 4), loader(4, 4, shuffle=False))
    return runner, module


@pytest.mark.parametrize(
    ("values", "epoch"),
    [([0.1, 0.9, 0.5], 2), ([0.9, 0.5, 0.1], 1), ([0.5, 0.7, 0.7], 3), ([float("nan"), 0.3, 0.2], 2)],
)
def test_the_best_validated_epoch_is_kept_and_of_equal_ones_the_later(values, epoch):
    best = BestWeights("val/accuracy")
    fit(values, best)
    assert best.state["weight"].item() == epoch
    assert best.value == pytest.approx(values[epoch - 1])
    assert best.step == 2 * epoch


def test_the_test_set_is_never_looked_at():
    best = BestWeights("val/accuracy")
    runner, module = fit([0.6, 0.5], best)
    with torch.no_grad():
        module.weight.fill_(77)
    runner.test(module, loader(4, 4, shuffle=False), verbose=False)
    assert (best.state["weight"].item(), best.value) == (1, pytest.approx(0.6))


def test_a_sanity_check_is_no_epoch():
    seen = []

    class Watched(BestWeights):
        def on_validation_end(self, trainer, pl_module):
            super().on_validation_end(trainer, pl_module)
            seen.append((trainer.sanity_checking, self.state is None))

    fit([0.5], Watched("val/accuracy"), num_sanity_val_steps=1)
    assert seen == [(True, True), (False, False)]


def test_only_epochs_that_are_ready_may_be_chosen():
    ready = []
    best = BestWeights("val/accuracy", ready=lambda: ready.append(0) or len(ready) > 1)
    fit([0.9, 0.2, 0.4], best)
    assert best.state["weight"].item() == 3


def test_without_the_metric_the_last_epoch_stays():
    best = BestWeights("val/other")
    fit([0.9, 0.2], best)
    assert best.state["weight"].item() == 2


def test_stages_keep_the_first_dense_and_the_last_pruned_and_repaired_state():
    stages, model = Stages(), nn.Linear(1, 1)
    for event in range(3):
        for stage in ("dense", "pruned", "repaired"):
            nn.init.constant_(model.weight, event)
            stages.record(stage, model)
    stages.keep("final", copy_state(model), step=9)
    assert {stage: state["weight"].item() for stage, state in stages.states.items()} == {
        "dense": 0,
        "pruned": 2,
        "repaired": 2,
        "final": 2,
    }
    assert stages.steps["final"] == 9
    assert list(stages.times.values()) == sorted(stages.times.values())


def test_a_copy_does_not_change_with_the_module():
    model = nn.Linear(1, 1)
    state = copy_state(model)
    nn.init.constant_(model.weight, 5.0)
    assert state["weight"].item() != 5
