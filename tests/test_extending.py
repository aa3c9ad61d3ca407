"""What a new thing costs: one file outside the package, whose names then work wherever ours do."""

import json

import lightning.pytorch as pl
import pytest
import torch
from hydra import compose, initialize_config_module
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from reflow_lightning import Pruner, Reflow, calibrate, find_sparsity, measure_signal, prune
from reflow_lightning.experiments.experiment import run
from reflow_lightning.experiments.extensions import import_extensions
from reflow_lightning.pruning import PerOutput

FILE = '''
"""Everything that a user may add, in a file of its own."""

from dataclasses import dataclass

import torch
from torch import nn

from reflow_lightning.calibration import Calibration, register_repair
from reflow_lightning.layers import LinearLayer, NormLayer, layer_of
from reflow_lightning.pruning import register_allocation, register_criterion, uniform


class Dense(nn.Module):
    """A weighted layer of another make."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(0.3 * torch.randn(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x):
        return x @ self.weight.T + self.bias


class Centred(nn.Module):
    """A norm of another make."""

    def __init__(self, channels):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        return self.weight * (x - x.mean(1, keepdim=True)) + self.bias


layer_of.register(Dense, LinearLayer)
layer_of.register(Centred, NormLayer)


@register_criterion_as("from_the_middle")
def from_the_middle(name, weight):
    return (weight - weight.mean()).abs()


def as_even_as_possible(scores, keep, floors):
    return uniform(scores, keep, floors)


register_allocation("even", as_even_as_possible)


@dataclass(frozen=True)
class HalfTheBias:
    """A repair that writes what it likes, and leaves the undoing to the package."""

    def __call__(self, model, batches, forward, reference, /):
        biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
        for bias in biases:
            bias.mul_(0.5)
        return Calibration(("biases",), {}, 0, 0.0)


register_repair("half_the_bias", HalfTheBias())


@dataclass(frozen=True)
class TwoSteps:
    """A schedule."""

    def check(self, length, sparsity):
        pass

    def due(self, now, last):
        return last is None or now.step >= 2 > last.step

    def sparsity(self, now, final):
        return final if now.step >= 2 else final / 2

    def finished(self, last, final):
        return last is not None and last.step >= 2


class Net(nn.Module):
    """What is trained, in the application too."""

    def __init__(self, inputs=64, classes=10):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), Dense(inputs, 16), Centred(16), nn.ReLU(), nn.Linear(16, classes))

    def forward(self, x):
        return self.body(x)
'''.replace('@register_criterion_as("from_the_middle")\ndef', "def").replace(
    "    return (weight - weight.mean()).abs()\n",
    '    return (weight - weight.mean()).abs()\n\n\nregister_criterion("from_the_middle", from_the_middle)\n',
)


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """The file as a module, imported as the application imports it."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "mine_of_a_test.py").write_text(FILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        import_extensions(["mine_of_a_test"])
        import mine_of_a_test

        yield mine_of_a_test


def batches(count=3):
    torch.manual_seed(1)
    return [(torch.randn(16, 64), torch.randint(10, (16,))) for _ in range(count)]


def test_by_name_in_prune_and_calibrate_and_measured(mine):
    model = mine.Net()
    model.body[1].bias.data += 1
    masks = prune(model, 0.5, criterion="from_the_middle", allocation="even")
    assert list(masks) == ["body.1.weight", "body.4.weight"]
    assert set(masks.sparsities.values()) == {0.5}
    before = model.body[1].bias.clone()
    result = calibrate(model, batches(), repair=["half_the_bias", "none"], max_batches=1)
    assert torch.equal(model.body[1].bias, before / 2)
    result.undo()
    assert torch.equal(model.body[1].bias, before)
    assert [row.name for row in measure_signal(model, batches(), max_batches=1).rows] == ["body.1", "body.4"]


def test_the_layers_are_scored_on_data_and_repaired(mine):
    dense, model = mine.Net(), mine.Net()
    model.load_state_dict(dense.state_dict())
    prune(model, 0.7, criterion=PerOutput("wanda"), batches=batches(), max_batches=3)
    result = calibrate(model, batches(), repair="moments", reference=dense, max_batches=3)
    assert result.repaired == ("body.1", "body.2", "body.4")


class Module(pl.LightningModule):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, _):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_by_name_in_reflow_with_a_schedule_of_ones_own(mine):
    x, y = (torch.cat(parts) for parts in zip(*batches(4), strict=True))
    reflow = Reflow(
        0.8, schedule=mine.TwoSteps(), criterion="from_the_middle", allocation="even", repair="half_the_bias"
    )
    trainer = pl.Trainer(max_epochs=1, callbacks=[reflow], logger=False, accelerator="cpu", enable_progress_bar=False,
                         enable_checkpointing=False, enable_model_summary=False)  # fmt: skip
    module = Module(mine.Net())
    trainer.fit(module, DataLoader(TensorDataset(x, y), 16))
    assert [round(event.sparsity, 1) for event in reflow.events] == [0.4, 0.8]
    assert reflow.completed
    assert {event.calibration.repaired for event in reflow.events} == {("biases",)}


def test_by_name_in_a_pruner_and_in_the_search(mine):
    event = Pruner(0.5, criterion="from_the_middle", repair="half_the_bias").apply(mine.Net(), batches())
    assert event.sparsity == 0.5
    found = find_sparsity(
        mine.Net(), batches(), lambda model: 1.0, max_drop=0.1, criterion="from_the_middle", repair="half_the_bias"
    )
    assert found.sparsity > 0.9


@pytest.mark.filterwarnings("ignore:calibration got")
def test_by_name_in_the_applications_configuration(mine, tmp_path):
    overrides = [
        "extensions=[mine_of_a_test]",
        "criterion=from_the_middle",
        "allocation=even",
        "repair=half_the_bias",
        "model.blocks=1",
        "schedule._target_=mine_of_a_test.TwoSteps",
        "~schedule.fraction",
        "epochs=1",
        "sparsity=0.6",
        "title=mine",
    ]
    with initialize_config_module("reflow_lightning.conf", version_base="1.3"):
        run(compose("config", overrides=overrides), tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["sparsity"] == pytest.approx(0.6, abs=1e-3)
