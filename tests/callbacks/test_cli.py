"""Everything that `Reflow` and `SignalMonitor` take can be written in the YAML of a `LightningCLI`, and read again."""

import contextlib
import io
from itertools import zip_longest

import pytest
import yaml
from helpers import Module
from scenarios import from_yaml as mine

from reflow_lightning import Gradual, Iterative, OneShot, Reflow, SignalMonitor
from reflow_lightning import calibration as c
from reflow_lightning import pruning as p

pytest.importorskip("jsonargparse", minversion="4.47")
pytest.importorskip("typeshed_client", reason="needs jsonargparse[signatures]")
from lightning.pytorch.cli import LightningCLI

PRUNING, CALIBRATION = "class_path: reflow_lightning.pruning", "class_path: reflow_lightning.calibration"
MINE = "class_path: scenarios.from_yaml"
CRITERIA = (p.ColumnSum, p.Fisher, p.Magnitude, p.PerOutput, p.Random, p.Snip, p.Taylor, p.Wanda, p.WoodFisher)
REPAIRS = (c.Auto, c.BatchNormStatistics, c.Moments, c.NoRepair, c.Reconstruct)
CASES = {
    **{f"criterion: {{{PRUNING}.{kind.__name__}}}": kind() for kind in CRITERIA},
    **{f"criterion: {name}": name for name in ("magnitude", "random", "fisher", "wanda")},
    f"criterion: {{{PRUNING}.WoodFisher, init_args: {{block: 16, damping: 0.1}}}}": p.WoodFisher(16, damping=0.1),
    f"criterion: {{{PRUNING}.Fisher, init_args: {{loss: scenarios.from_yaml.loss}}}}": p.Fisher(mine.loss),
    f"criterion: {{{PRUNING}.PerOutput, init_args: {{criterion: fisher}}}}": p.PerOutput("fisher"),
    f"criterion: {{{PRUNING}.PerOutput, init_args: {{criterion: {{{PRUNING}.Random, init_args: {{seed: 3}}}}}}}}": (
        p.PerOutput(p.Random(3))
    ),
    f"criterion: {{{PRUNING}.PerOutput, init_args: {{criterion: {{{PRUNING}.Wanda}}}}}}": p.PerOutput(p.Wanda()),
    "criterion: scenarios.from_yaml.criterion": mine.criterion,
    f"criterion: {{{MINE}.Called, init_args: {{share: 2.0}}}}": mine.Called(2.0),
    f"criterion: {{{MINE}.OnData, init_args: {{share: 2.0}}}}": mine.OnData(2.0),
    f"criterion: {{{MINE}.ByGradients, init_args: {{power: 2}}}}": mine.ByGradients(power=2),
    **{f"allocation: {name}": name for name in ("global", "erk", "entropy")},
    f"allocation: {{{PRUNING}.EntropyBudget, init_args: {{zeros: 'off'}}}}": p.EntropyBudget("off"),
    f"allocation: {{{PRUNING}.KeptColumns, init_args: {{columns: {{weight: 3}}}}}}": p.KeptColumns({"weight": 3}),
    "allocation: reflow_lightning.pruning.uniform": p.uniform,
    f"allocation: {{{MINE}.Called}}": mine.Called(),
    **{f"repair: {{{CALIBRATION}.{kind.__name__}}}": kind() for kind in REPAIRS},
    **{f"repair: {name}": name for name in ("auto", "reconstruct", "align", "none")},
    "repair: [batchnorm, moments]": ["batchnorm", "moments"],
    f"repair: [moments, {{{CALIBRATION}.Reconstruct, init_args: {{ridge: 0.1}}}}]": ["moments", c.Reconstruct(0.1)],
    f"repair: {{{CALIBRATION}.ThenBatchNorm, init_args: {{first: {{{CALIBRATION}.Moments}}}}}}": (
        c.ThenBatchNorm(c.Moments())
    ),
    f"repair: {{{CALIBRATION}.InTurn, init_args: {{repairs: [{{{CALIBRATION}.Moments}}, {{{CALIBRATION}.Auto}}]}}}}": (
        c.InTurn([c.Moments(), c.Auto()])
    ),
    "repair: scenarios.from_yaml.repair": mine.repair,
    f"repair: {{{MINE}.Called}}": mine.Called(),
    "schedule: null": OneShot(),
    "schedule: {class_path: reflow_lightning.OneShot, init_args: {epoch: 1}}": OneShot(epoch=1),
    "schedule: {class_path: reflow_lightning.OneShot}": OneShot(),
    "schedule: {class_path: reflow_lightning.Gradual, init_args: {end: 0.5, every_n_steps: 2}}": (
        Gradual(end=0.5, every_n_steps=2)
    ),
    "schedule: {class_path: reflow_lightning.Iterative, init_args: {amount: 0.2, every_n_epochs: 1}}": (
        Iterative(amount=0.2, every_n_epochs=1)
    ),
    f"schedule: {{{MINE}.Once, init_args: {{epoch: 1}}}}": mine.Once(1),
    "monitor: false": False,
    "calibration_data: train": "train",
    "calibration_data: val": "val",
    "calibration_data: scenarios.from_yaml.batches": mine.batches,
    f"calibration_data: {{{MINE}.Batches, init_args: {{n: 2}}}}": mine.Batches(2),
    "calibration_batches: 7": 7,
    "calibration_batches: auto": "auto",
    "include: net.*": ("net.*",),
    "include: [net.*, '*.bias']": ("net.*", "*.bias"),
    "exclude: net.9.*": ("net.9.*",),
    "exclude: [net.9.*]": ("net.9.*",),
    "pattern: '2:4'": "2:4",
    "min_kept: 0.002": 0.002,
    "forward: scenarios.from_yaml.forward": mine.forward,
    "forward: training_step": "training_step",
    "forward: batch[0]": "batch[0]",
    "tied: {teacher.*: net.*}": {"teacher.*": "net.*"},
    "seed: 3": 3,
}
QUIET = {
    "trainer": {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    | {"enable_model_summary": False, "max_epochs": 1}
}


def config(folder, text, kind="Reflow", sparsity="sparsity: 0.9"):
    """A configuration file, with the arguments of one callback as they are written there."""
    arguments = yaml.safe_load(sparsity or "{}") | yaml.safe_load(text)
    callback = {"class_path": f"reflow_lightning.{kind}", "init_args": arguments}
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(QUIET | {"trainer": QUIET["trainer"] | {"callbacks": [callback]}}))
    return file


def made(file, *arguments, kind=Reflow):
    """The CLI, and the callback that it made of the file."""
    arguments = ["--config", str(file), *arguments]
    cli = LightningCLI(Module, mine.Data, run=False, args=arguments, save_config_callback=None)
    return cli, next(callback for callback in cli.trainer.callbacks if isinstance(callback, kind))


def value(reflow, key):
    holder = next(holder for holder in (reflow, reflow.pruner, reflow.pruner.spec) if hasattr(holder, key))
    return getattr(holder, key)


def together():
    """The cases in as few files as possible: each file has one of each argument."""
    by_key = {}
    for text in CASES:
        by_key.setdefault(text.partition(":")[0], []).append(text)
    return [list(filter(None, texts)) for texts in zip_longest(*by_key.values())]


def check(file, texts):
    _, reflow = made(file)
    for text in texts:
        assert value(reflow, text.partition(":")[0]) == CASES[text], text


@pytest.mark.parametrize("texts", together(), ids=lambda texts: texts[0])
def test_arguments_are_what_the_file_says_also_after_it_was_printed_and_read_again(texts, tmp_path):
    file = config(tmp_path, "\n".join(texts))
    check(file, texts)
    printed = io.StringIO()
    with pytest.raises(SystemExit), contextlib.redirect_stdout(printed):
        made(file, "--print_config")
    file.write_text(printed.getvalue())
    check(file, texts)


def test_a_data_module_and_a_monitor_are_made_with_their_arguments(tmp_path):
    arguments = "{every_n_steps: 3, metrics: [dead], layers: net.*}"
    monitor = f"{{class_path: reflow_lightning.SignalMonitor, init_args: {arguments}}}"
    text = f"calibration_data: {{{MINE}.Data, init_args: {{n: 16}}}}\nmonitor: {monitor}"
    _, reflow = made(config(tmp_path, text))
    assert isinstance(reflow.calibration_data, mine.Data)
    assert reflow.calibration_data.n == 16
    assert (reflow.monitor.every_n_steps, reflow.monitor.metrics, reflow.monitor.layers) == (3, ("dead",), ("net.*",))


def test_the_monitor_is_a_callback_of_its_own(tmp_path):
    text = "every_n_steps: 2\nmetrics: [variance, dead]\nlayers: [net.*]\nforward: scenarios.from_yaml.forward"
    _, monitor = made(config(tmp_path, text, "SignalMonitor", sparsity=""), kind=SignalMonitor)
    assert (monitor.every_n_steps, monitor.metrics) == (2, ("variance", "dead"))
    assert (monitor.layers, monitor.forward) == (("net.*",), mine.forward)


@pytest.mark.parametrize("criterion", ["Wanda", "WoodFisher", "PerOutput"])
def test_a_training_prunes_and_the_configuration_that_it_saves_can_be_trained_with(criterion, tmp_path):
    text = f"criterion: {{{PRUNING}.{criterion}}}\nrepair: [moments]\nmonitor: false\ncalibration_batches: 1"
    file, sparsities = config(tmp_path, text), []
    for folder in ("first", "second"):
        arguments = ["fit", "--config", str(file), "--trainer.default_root_dir", str(tmp_path / folder)]
        cli = LightningCLI(Module, mine.Data, args=arguments, save_config_kwargs={"overwrite": True})
        sparsities += [callback.pruner.reached for callback in cli.trainer.callbacks if isinstance(callback, Reflow)]
        [file] = (tmp_path / folder).rglob("config.yaml")
    assert sparsities == [pytest.approx(0.9, abs=0.01)] * 2


def test_arguments_on_the_command_line(tmp_path):
    arguments = ["--trainer.accelerator=cpu", "--trainer.callbacks+=reflow_lightning.Reflow"]
    arguments += ["--trainer.callbacks.sparsity=0.9", "--trainer.callbacks.criterion=reflow_lightning.pruning.Random"]
    arguments += ["--trainer.callbacks.criterion.seed=3", "--trainer.callbacks.exclude=net.9.*"]
    cli = LightningCLI(Module, mine.Data, run=False, args=arguments, save_config_callback=None)
    [reflow] = [callback for callback in cli.trainer.callbacks if isinstance(callback, Reflow)]
    assert reflow.pruner.spec.criterion == p.Random(3)
    assert reflow.pruner.spec.exclude == ("net.9.*",)


def test_a_mistyped_argument_is_named(tmp_path, capsys):
    file = config(tmp_path, f"criterion: {{{PRUNING}.WoodFisher, init_args: {{blok: 3}}}}")
    with pytest.raises(SystemExit):
        made(file)
    assert "blok" in capsys.readouterr().err
