import copy
import csv
import pickle
import warnings

import lightning.pytorch as pl
import pytest
import torch
from helpers import Module, images, loader, selected_size, trainer, zeros
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning_utilities.core import rank_zero
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from reflow_lightning import Gradual, Iterative, OneShot, Reflow, SignalMonitor, measure_signal
from reflow_lightning.schedules import Progress

SIZE = selected_size(Module())


def reflow(sparsity=0.5, **options):
    return Reflow(sparsity, **{"calibration_batches": 2} | options)


def fit(callback, module=None, batches=None, **options):
    module = module or Module()
    runner = trainer(callback, **options)
    runner.fit(module, loader() if batches is None else batches, loader(32, shuffle=False))
    return module, runner


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# -- the zeros


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "several"])
@pytest.mark.parametrize("schedule", [OneShot(), OneShot(step=3), OneShot(epoch=1), Gradual(every_n_steps=2)])
def test_the_zeros_are_exact_at_the_end(optimizer, schedule):
    module = Module(optimizer, manual=optimizer == "several")
    callback = reflow(0.7, schedule=schedule)
    before = state(module)
    fit(callback, module)
    assert zeros(module) == round(0.7 * SIZE)
    assert callback.masks.sparsity == pytest.approx(round(0.7 * SIZE) / SIZE)
    for name, mask in callback.masks.items():
        weight = module.get_parameter(name)
        assert not weight[~mask].any()
        assert not torch.equal(weight[mask], before[name][mask])  # the others were trained


def test_the_zeros_are_there_after_every_step():
    class Watch(pl.Callback):
        seen: list[int] = []  # noqa: RUF012

        def on_train_batch_end(self, trainer, pl_module, *args):
            self.seen.append(zeros(pl_module))

    watch = Watch()
    runner = trainer(watch, reflow(0.5), max_epochs=3)
    runner.fit(Module("adamw"), loader(), loader(32, shuffle=False))
    assert watch.seen == [round(0.5 * SIZE)] * 12


def test_gradient_accumulation_prunes_once_at_its_step():
    callback = reflow(schedule=OneShot(step=2))
    module, _ = fit(callback, accumulate_grad_batches=2)
    assert [event.step for event in callback.events] == [2]
    assert zeros(module) == round(0.5 * SIZE)


def test_parameter_names_are_what_they_were():
    module = Module()
    names = list(module.state_dict())
    fit(reflow(), module)
    assert list(module.state_dict()) == names


# -- the moment


def test_a_metric_and_the_weights_saved_with_it_agree(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, filename="{epoch}-{zeros:.0f}", monitor="zeros", save_top_k=-1)
    runner = trainer(reflow(schedule=OneShot(step=5)), checkpoint, max_epochs=3, enable_checkpointing=True)
    runner.fit(Module(), loader(), loader(32, shuffle=False))
    found = {}
    for path in tmp_path.glob("*.ckpt"):
        module = Module()
        module.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
        assert f"zeros={zeros(module)}" in path.name
        found[path.name[:7]] = zeros(module)
    assert found == {"epoch=0": 0, "epoch=1": round(0.5 * SIZE), "epoch=2": round(0.5 * SIZE)}


def test_pruning_after_the_last_step_is_validated():
    module, runner = fit(reflow(schedule=OneShot(fraction=1.0)))
    assert module.validated_zeros == [0, 0, 0, 0, round(0.5 * SIZE), round(0.5 * SIZE)]  # sanity check, two epochs
    assert runner.global_step == 8


def test_an_epoch_prunes_after_the_validation_of_the_one_before():
    module, _ = fit(reflow(schedule=OneShot(epoch=1)))
    assert module.validated_zeros == [0, 0, 0, 0, round(0.5 * SIZE), round(0.5 * SIZE)]


def test_fractions_of_max_steps_and_of_streams():
    callback = reflow(schedule=OneShot(fraction=0.5))
    fit(callback, max_epochs=-1, max_steps=6)
    assert [event.step for event in callback.events] == [3]

    class Stream(IterableDataset):
        def __iter__(self):
            x = images(32)
            yield from zip(x, (x.mean((1, 2, 3)) > 0).long(), strict=True)

    callback = reflow(schedule=OneShot(fraction=1.0))
    fit(callback, batches=DataLoader(Stream(), 8))
    assert [event.step for event in callback.events] == [8]


def test_manual_optimization_counts_fractions_by_batches():
    callback = reflow(schedule=OneShot(fraction=0.5))
    fit(callback, Module("several", manual=True))
    assert [event.step for event in callback.events] == [8]  # two optimizers, four of eight batches


@pytest.mark.parametrize(
    ("schedule", "options", "text"),
    [
        (OneShot(step=9), {}, r"OneShot\(step=9\) lies beyond the end of training, step 8"),
        (OneShot(epoch=2), {}, r"OneShot\(epoch=2\) lies beyond the last epoch, 1"),
        (OneShot(fraction=0.5), {"max_epochs": -1}, "known length"),
    ],
)
def test_a_schedule_beyond_the_end_is_an_error_before_anything_is_changed(schedule, options, text):
    module = Module()
    before = state(module)
    with pytest.raises(ValueError, match=text):
        fit(reflow(schedule=schedule), module, **options)
    assert equal(before, state(module))


def test_a_training_that_ends_early_says_what_was_not_reached():
    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer, *args):
            trainer.should_stop = True

    runner = trainer(reflow(schedule=OneShot(epoch=1)), Stop())
    with pytest.warns(UserWarning, match=r"training ended at step 1 before OneShot.*sparsity is 0.0000 instead of 0.5"):
        runner.fit(Module(), loader(), loader(32, shuffle=False))


# -- the trainer's modes


@pytest.mark.parametrize("schedule", [OneShot(), OneShot(fraction=1.0), Gradual()])
@pytest.mark.parametrize("options", [{"barebones": True}, {"limit_train_batches": 1, "limit_val_batches": 1}])
def test_limits(schedule, options):
    callback = Reflow(0.5, schedule=schedule)
    module = Module()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(callback, module, **options)
    assert zeros(module) == round(0.5 * SIZE)
    assert not [w for w in caught if "instead of max_batches=50" in str(w.message) and "limit_train_batches" in options]
    if "barebones" not in options:
        assert callback.events[-1].calibration.batches == 1


@pytest.mark.parametrize("schedule", [OneShot(), OneShot(epoch=10), OneShot(fraction=1.0), Gradual(), Iterative()])
@pytest.mark.parametrize("how", [{}, {"repair": "reconstruct"}, {"criterion": "taylor"}, {"sparsity": 0.9}])
def test_fast_dev_run_tries_the_whole_event_and_undoes_it(schedule, how, caplog):
    plain, module, stages = Module(), Module(), []
    module.load_state_dict(plain.state_dict())
    torch.manual_seed(0)
    fit(pl.Callback(), plain, fast_dev_run=3)
    callback = Reflow(**{"sparsity": 0.5, "schedule": schedule, **how})
    callback.listeners.append(lambda stage, network: stages.append((stage, zeros(network))))
    with warnings.catch_warnings(), caplog.at_level("INFO", rank_zero.log.name):
        warnings.simplefilter("error", UserWarning)  # such as that the schedule was not completed
        warnings.filterwarnings(
            "ignore", ".*(all there were|fewer samples|leaves no weight|hardly any|does not have many).*"
        )
        torch.manual_seed(0)
        fit(callback, module, fast_dev_run=3)
    goal = round(callback.sparsity * SIZE)
    assert stages == [("dense", 0), ("pruned", goal), ("repaired", goal)]
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in plain.state_dict().items())
    assert (callback.masks, callback.events, callback.completed) == (None, [], False)
    assert "tried a pruning, and took it back" in caplog.text
    fit(callback, module, max_epochs=11)
    assert zeros(module) == goal


def test_fast_dev_run_meets_the_errors_of_an_event_that_comes_later():
    def broken(name, weight):
        raise RuntimeError("no scores")

    with pytest.raises(RuntimeError, match="no scores"):
        fit(reflow(schedule=OneShot(epoch=10), criterion=broken), fast_dev_run=True)


def test_fast_dev_run_under_masks_prunes_nothing_more():
    callback, module = reflow(), Module()
    fit(callback, module)
    fit(callback, module, fast_dev_run=True)
    assert (zeros(module), len(callback.events), callback.completed) == (round(0.5 * SIZE), 1, True)


def test_without_any_validation():
    module = Module()
    trainer(reflow(), limit_val_batches=0).fit(module, loader())
    assert zeros(module) == round(0.5 * SIZE)


def test_validate_before_and_test_after_fit():
    module = Module()
    callback = reflow()
    runner = trainer(callback)
    runner.validate(module, loader(32, shuffle=False), verbose=False)
    assert zeros(module) == 0
    runner.fit(module, loader(), loader(32, shuffle=False))
    trained = state(module)
    [metrics] = runner.test(module, loader(32, shuffle=False), verbose=False)
    assert metrics["test_zeros"] == round(0.5 * SIZE)
    assert equal(trained, state(module))


def test_a_second_fit_goes_on_under_the_mask():
    callback = reflow()
    module, runner = fit(callback)
    masks = copy.deepcopy(callback.masks)
    runner.fit_loop.max_epochs = 4
    runner.fit(module, loader(), loader(32, shuffle=False))
    assert len(callback.events) == 1
    assert callback.masks == masks
    assert zeros(module) == round(0.5 * SIZE)


def test_the_training_is_the_same_with_and_without_the_measurements(tmp_path):
    """Random state, loader and flags are left alone: the same weights with and without monitor."""
    results = []
    for i, monitor in enumerate((False, SignalMonitor(every_n_steps=1))):
        pl.seed_everything(3, verbose=False)
        logger = CSVLogger(tmp_path, name="", version=str(i))
        module, _ = fit(reflow(schedule=OneShot(step=3), monitor=monitor), logger=logger)
        results.append(state(module))
    assert equal(*results)
    assert "variance/net.1" in (tmp_path / "1" / "metrics.csv").read_text()  # it did measure


def test_pruning_at_the_end_does_not_change_the_training_before(tmp_path):
    results = []
    for i, callback in enumerate((reflow(0.0, repair="none", schedule=OneShot(step=2)), SignalMonitor())):
        pl.seed_everything(3, verbose=False)
        module, _ = fit(callback, logger=CSVLogger(tmp_path, name="", version=str(i)))
        results.append(state(module))
    assert equal(*results)


def test_persistent_workers_do_not_lose_their_epoch():
    batches = loader(num_workers=1, persistent_workers=True)
    _, runner = fit(reflow(schedule=OneShot(step=2)), batches=batches)
    assert runner.global_step == 8


# -- calibration


@pytest.mark.parametrize("data", ["train", "val", loader(), lambda: images(64).split(16)])
def test_sources_of_calibration_data(data):
    callback = reflow(calibration_data=data)
    fit(callback)
    assert callback.events[0].calibration.repaired == ("net.1", "net.5", "net.9")
    assert callback.events[0].calibration.batches == 2


def test_a_data_module_is_a_source():
    class Data(pl.LightningDataModule):
        ready = False

        def setup(self, stage):
            self.ready = True

        def train_dataloader(self):
            assert self.ready
            return loader()

        def val_dataloader(self):
            return loader(32)

    callback = reflow(calibration_data=Data())
    fit(callback)
    assert callback.events[0].calibration.batches == 2
    data = Data()
    callback = reflow(calibration_data=data)
    trainer(callback).fit(Module(), datamodule=data)
    assert callback.events[0].calibration.batches == 2


def test_several_loaders_at_once():
    class Several(Module):
        def forward(self, batches):
            return super().forward(batches["a"][0] if isinstance(batches, dict) else batches)

        def training_step(self, batch, batch_idx):
            return super().training_step(batch["a"], batch_idx)

    callback = reflow(forward=lambda module, batch: module(batch), monitor=False)
    trainer(callback).fit(Several(), {"a": loader(), "b": loader(32)})
    assert callback.events[0].calibration.batches == 2


def test_a_missing_validation_loader_is_an_error_that_leaves_the_model_alone():
    module = Module()
    with pytest.raises(ValueError, match="calibration_data='val', but the training has no validation loader"):
        trainer(reflow(calibration_data="val", monitor=False)).fit(module, loader())
    assert zeros(module) == 0


def test_a_calibration_that_fails_leaves_the_model_alone():
    class Broken(Module):
        def forward(self, x):
            if not self.training:
                raise RuntimeError("broken in eval mode")
            return super().forward(x)

        def validation_step(self, batch, batch_idx):
            pass

    module = Broken()
    before = state(module)
    with pytest.raises(RuntimeError, match="broken in eval mode"):
        fit(reflow(monitor=False), module)
    assert equal(before, state(module))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


def test_repair_can_be_left_out():
    callback = reflow(repair="none", schedule=OneShot(fraction=1.0))
    fit(callback)
    assert callback.events[0].calibration.repaired == ()


def test_listeners_see_every_stage():
    callback = reflow()
    seen = []
    callback.listeners.append(lambda stage, module: seen.append((stage, zeros(module) > 0)))
    fit(callback)
    assert seen == [("dense", False), ("pruned", True), ("repaired", True)]


def test_listeners_may_be_added_or_replaced():
    callback, seen = reflow(), []
    callback.listeners += [lambda stage, module: seen.append(stage)]
    assert callback.listeners is callback.pruner.listeners
    callback.apply(Module(), calibration_loader())
    assert seen == ["dense", "pruned", "repaired"]


# -- the logs


def test_tensorboard_has_a_few_curves_the_pictures_and_a_run_for_each_state(tmp_path):
    callback = reflow(0.8, schedule=OneShot(epoch=1), monitor=SignalMonitor(every_n_steps=2, curves=2))
    fit(callback, logger=TensorBoardLogger(tmp_path, name="", version=""), log_every_n_steps=1)
    events = read_tensorboard(tmp_path)
    tags = {tag for tag in events.Tags()["scalars"] if tag.startswith(("sparsity/", "variance/"))}
    assert tags == {
        *("sparsity/global", "sparsity/all_matrices", "sparsity/net.0", "sparsity/net.9"),
        *("variance/net.1", "variance/net.9"),
    }
    assert [s.step for s in events.Scalars("variance/net.1")] == [0, 2, 4, 6]
    assert [s.value for s in events.Scalars("sparsity/global")] == pytest.approx([0.8], abs=1e-2)
    assert sorted(events.Tags()["images"])[:2] == ["activations/by_layer", "activations/over_training"]
    assert min(events.Tags()["scalars"]) > "activations/by_layer"  # TensorBoard sorts by name
    for name, steps in {"by_layer": [4], "values": [4], "over_training": [4, 8]}.items():
        images = events.Images(f"activations/{name}")
        assert [image.step for image in images] == steps
        assert images[0].encoded_image_string[:4] == b"\x89PNG"
    assert [row["step"] for row in table(tmp_path / "signal.csv")] == ["4"] * 9
    signal = callback.events[0].signal
    for state, report in signal.items():
        run = read_tensorboard(tmp_path / state)
        assert run.Tags()["histograms"] == ["histograms/net.1", "histograms/net.9"]
        assert run.Histograms("histograms/net.9")[0].histogram_value.num == sum(report.histograms["net.9"].counts)
        weakest, end = run.Scalars("activations/weakest_layer_log10_variance_ratio")
        assert (end.step, end.value) == (5, weakest.value)  # a line, which TensorBoard takes for no outlier
        dense = signal["dense"].variances()
        expected = min(variance / dense[name] for name, variance in report.variances().items())
        assert (weakest.step, 10**weakest.value) == (4, pytest.approx(expected, rel=1e-4))


def read_tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_table_has_the_signal_of_every_layer_in_every_state_at_every_pruning(tmp_path):
    callback = reflow(schedule=Gradual(every_n_steps=3))
    fit(callback, logger=CSVLogger(tmp_path, name="", version=""), log_every_n_steps=1)
    rows = table(tmp_path / "signal.csv")
    assert [event.step for event in callback.events] == [3, 6]
    expected = [
        (str(event.step), stage, str(depth), row.name, repr(row.variance))
        for event in callback.events
        for stage, report in event.signal.items()
        for depth, row in enumerate(report.rows, 1)
    ]
    assert [(row["step"], row["stage"], row["depth"], row["name"], row["variance"]) for row in rows] == expected
    rectifiers = [row for row in table(tmp_path / "rectifiers.csv") if row["stage"] == "pruned"]
    of_last = callback.events[-1].signal["pruned"].rectifiers
    assert [(row["layer"], float(row["entropy"])) for row in rectifiers] == [(r.layer, r.entropy) for r in of_last]


def test_metrics_are_logged_at_steps_of_the_training_alone_and_under_names_that_stay(tmp_path):
    names = []
    for every in (1, 3):
        folder = tmp_path / str(every)
        logger = CSVLogger(folder, name="", version="")
        fit(reflow(schedule=Gradual(every_n_steps=every)), logger=logger, log_every_n_steps=1)
        rows = table(folder / "metrics.csv")
        steps = [int(row["step"]) for row in rows]
        assert steps == sorted(steps)
        assert max(steps) < 8
        names.append(set(rows[0]))
    assert names[0] == names[1]


def test_the_last_moment_of_a_gradual_schedule_has_a_profile_though_nothing_more_goes(tmp_path):
    callback = reflow(1 / SIZE, schedule=Gradual(every_n_steps=1, end=1.0))  # one weight, gone long before the end
    fit(callback, logger=CSVLogger(tmp_path, name="", version=""), log_every_n_steps=1)
    assert callback.events[-1].step == 8
    assert {row["stage"] for row in table(tmp_path / "signal.csv") if row["step"] == "8"} == {
        "dense", "pruned", "repaired",
    }  # fmt: skip


def test_the_monitor_alone_logs_any_training(tmp_path):
    trainer(SignalMonitor(every_n_steps=3), logger=CSVLogger(tmp_path, name="", version="")).fit(Module(), loader())
    with (tmp_path / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("variance/net.1")]
    assert [int(row["step"]) for row in rows] == [0, 3, 6]


def test_the_monitor_measures_eval_mode_on_the_training_batch(tmp_path):
    class Seen(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.expected = measure_signal(pl_module, [batch], max_batches=1).variances()

    seen = Seen()
    runner = trainer(seen, SignalMonitor(1), logger=CSVLogger(tmp_path, name="", version=""), max_steps=1)
    runner.fit(Module(), loader())
    with (tmp_path / "metrics.csv").open() as file:
        [row] = [row for row in csv.DictReader(file) if row.get("variance/net.1")]
    assert float(row["variance/net.1"]) == pytest.approx(seen.expected["net.1"])


def test_two_monitors_do_not_log_twice(tmp_path):
    runner = trainer(reflow(), SignalMonitor(2), logger=CSVLogger(tmp_path, name="", version=""), log_every_n_steps=1)
    runner.fit(Module(), loader())
    with (tmp_path / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("variance/net.1")]
    assert len(rows) == 4


def test_callbacks_keep_their_own_log_attributes():
    """Lightning overwrites `log` and `log_dict` of every callback: neither may be ours."""
    for kind in (Reflow, SignalMonitor):
        assert not {"log", "log_dict"} & set(vars(kind))


# -- the arguments


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"sparsity": 1.0}, r"sparsity=1.0 is outside \[0, 1\)"),
        ({"criterion": "size"}, "criterion='size' is unknown"),
        ({"allocation": "layer"}, "allocation='layer' is unknown"),
        ({"repair": "magic"}, "repair='magic' is unknown"),
        ({"min_kept": 2}, r"min_kept=2 is outside \[0, 1\)"),
        ({"pattern": "2:2"}, "pattern='2:2' is not 'N:M'"),
        ({"pattern": "2:4", "schedule": Gradual()}, "can't be reached gradually"),
        ({"calibration_data": "test"}, "calibration_data='test' must be 'train', 'val'"),
        ({"schedule": "one_shot"}, r"schedule='one_shot' must be a schedule: OneShot\(...\), Gradual"),
        ({"monitor": "yes"}, "monitor='yes' must be True, False or a SignalMonitor"),
        ({"calibration_batches": 0}, "calibration_batches=0 must be a whole number"),
    ],
)
def test_arguments_are_checked_at_once(options, text):
    with pytest.raises(ValueError, match=text):
        Reflow(**{"sparsity": 0.5} | options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"include": "head.*"}, r"include pattern 'head.\*' matches no prunable parameter"),
        ({"pattern": "2:4"}, r"dimension 1 of 'net.0.weight'"),
        ({"min_kept": 0.4}, "min_kept=0.4 asks for"),
    ],
)
def test_arguments_that_do_not_fit_the_model_are_errors_before_training(options, text):
    module = Module()
    before = state(module)
    with pytest.raises(ValueError, match=text):
        fit(reflow(schedule=OneShot(epoch=1), **options), module)
    assert equal(before, state(module))


def test_a_module_without_forward_is_calibrated_by_its_training_step():
    class Headless(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = Module().net

        def training_step(self, batch, batch_idx):
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    with pytest.warns(UserWarning, match="calibrates with forward='training_step'"):
        trainer(reflow()).fit(Headless(), loader())
    module = Headless()
    trainer(reflow(forward=lambda module, batch: module.net(batch[0]))).fit(module, loader())
    assert zeros(module) == round(0.5 * SIZE)


# -- the checkpoint


@pytest.mark.parametrize("schedule", [OneShot(step=3), OneShot(fraction=1.0), Gradual(every_n_steps=1, end=1.0)])
def test_a_resumed_run_prunes_exactly_once_and_keeps_its_zeros(schedule, tmp_path):
    first = reflow(schedule=schedule)
    module, runner = fit(first, max_epochs=1)
    runner.save_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    second = reflow(schedule=schedule)
    module = Module()
    trainer(second, max_epochs=3).fit(
        module, loader(), loader(32, shuffle=False), ckpt_path=tmp_path / "a.ckpt", weights_only=True
    )
    assert second.events == []
    assert zeros(module) == round(0.5 * SIZE)
    assert first.masks == second.masks


def test_a_run_resumed_before_its_moment_prunes_at_it(tmp_path):
    module, runner = fit(SignalMonitor(), max_epochs=1)
    runner.save_checkpoint(tmp_path / "dense.ckpt", weights_only=False)
    callback = reflow(schedule=OneShot(step=6))
    trainer(callback, max_epochs=2).fit(module, loader(), loader(32, shuffle=False), ckpt_path=tmp_path / "dense.ckpt")
    assert [event.step for event in callback.events] == [6]


def test_a_gradual_schedule_goes_on_where_it_was(tmp_path):
    schedule = Gradual(every_n_steps=1, end=1.0)
    whole = reflow(schedule=schedule)
    pl.seed_everything(0, verbose=False)
    fit(whole, Module(), max_epochs=2, batches=loader(shuffle=False))

    class Save(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 0:
                trainer.save_checkpoint(tmp_path / "half.ckpt")

    pl.seed_everything(0, verbose=False)
    runner = trainer(reflow(schedule=schedule), Save(), max_epochs=2)
    runner.fit(Module(), loader(shuffle=False), loader(32, shuffle=False))
    rest = reflow(schedule=schedule)
    resumed = Module()
    trainer(rest, max_epochs=2).fit(
        resumed, loader(shuffle=False), loader(32, shuffle=False), ckpt_path=tmp_path / "half.ckpt"
    )
    assert [event.step for event in rest.events] == [event.step for event in whole.events][4:]
    assert zeros(resumed) == round(0.5 * SIZE)


def test_a_checkpoint_loads_without_this_package_and_holds_plain_types(tmp_path):
    module, runner = fit(reflow())
    runner.save_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    plain = Module()
    plain.load_state_dict(content["state_dict"])
    assert equal(state(plain), state(module))
    [key] = [key for key in content["callbacks"] if "Reflow" in key]
    assert content["callbacks"][key]["masks"]["bits"].numel() == -(-SIZE // 8)  # a bit a weight
    assert Progress(**content["callbacks"][key]["last"]).step == 0


def test_the_saved_optimizer_state_holds_nothing_of_pruned_weights(tmp_path):
    callback = reflow(schedule=OneShot(fraction=1.0))
    module, runner = fit(callback)
    [optimizer] = runner.optimizers
    for name, mask in callback.masks.items():
        assert not optimizer.state[module.get_parameter(name)]["momentum_buffer"][~mask].any()


def test_two_callbacks_prune_different_layers():
    callbacks = [reflow(0.5, include="net.0.*"), reflow(0.8, include="net.9.*", monitor=False)]
    module = Module()
    trainer(*callbacks).fit(module, loader(), loader(32, shuffle=False))
    assert int((module.net[0].weight == 0).sum()) == 36
    assert int((module.net[9].weight == 0).sum()) == round(0.8 * 24)
    assert int((module.net[4].weight == 0).sum()) == 0


def test_the_same_callback_starts_anew_with_another_module():
    callback = reflow(schedule=OneShot(epoch=1))
    fit(callback)
    module, _ = fit(callback)
    assert [event.step for event in callback.events] == [4, 4]
    assert module.validated_zeros == [0, 0, 0, 0, round(0.5 * SIZE), round(0.5 * SIZE)]


def test_a_completed_schedule_says_that_another_sparsity_has_no_effect(tmp_path):
    module, runner = fit(reflow(0.5), max_epochs=1)
    runner.save_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    with pytest.warns(UserWarning, match=r"sparsity=0.9 has no effect: OneShot\(\) was completed before this fit"):
        trainer(reflow(0.9), max_epochs=2).fit(module, loader(), ckpt_path=tmp_path / "a.ckpt")


def test_a_checkpoint_whose_masks_are_of_other_weights_is_told_of_once(tmp_path):
    first = [reflow(0.5, include=[name]) for name in ("net.9.weight", "net.4.weight")]
    runner = trainer(*first, max_epochs=1)
    runner.fit(Module(), loader())
    runner.save_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    second = [reflow(0.5, include=[name]) for name in ("net.9.weight", "net.5.weight")]
    with pytest.warns(UserWarning, match="which no callback here takes over") as told:
        trainer(*second, max_epochs=2).fit(Module(), loader(), ckpt_path=tmp_path / "a.ckpt")
    [message] = [str(each.message) for each in told if "takes over" in str(each.message)]
    dropped, _, begins = message.partition("takes over")
    assert "net.4.weight" in dropped
    assert "net.5.weight" in begins
    assert "net.9.weight" not in message
    assert [len(callback.events) for callback in second] == [0, 1]


def test_a_gradual_schedule_never_releases_weights_though_the_training_gets_longer(tmp_path):
    schedule = Gradual(every_n_steps=1, end=1.0)
    first = reflow(schedule=schedule)

    class Save(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 0:
                trainer.save_checkpoint(tmp_path / "a.ckpt")

    trainer(first, Save(), max_epochs=2).fit(Module(), loader())
    least = first.events[3].sparsity
    second = reflow(schedule=schedule)
    seen = []
    second.listeners.append(lambda stage, module: seen.append(zeros(module) / SIZE))
    trainer(second, max_epochs=8).fit(Module(), loader(), ckpt_path=tmp_path / "a.ckpt")
    assert min(seen) >= least - 1e-9
    assert second.masks.sparsity == pytest.approx(0.5)


def test_validation_batches_that_the_trainer_has_not_loaded_yet_are_loaded():
    callback = reflow(calibration_data="val")
    fit(callback, check_val_every_n_epoch=2, num_sanity_val_steps=0)
    assert callback.events[0].calibration.batches == 2


def test_every_validation_loader_counts_within_its_limit():
    sizes = []
    callback = reflow(
        calibration_data="val",
        calibration_batches=4,
        repair="batchnorm",  # reads them once
        monitor=False,
        forward=lambda m, b: sizes.append(len(b[0])) or m(b[0]),
    )

    class Two(Module):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            pass

    runner = trainer(callback, limit_val_batches=2)
    runner.fit(Two(), loader(), [loader(batch_size=16, shuffle=False), loader(batch_size=8, shuffle=False)])
    assert sizes == [16, 16, 8, 8]


def test_without_a_limit_the_last_short_batch_counts_too():
    callback = reflow(calibration_data="val", calibration_batches=3)
    trainer(callback, max_epochs=1).fit(Module(), loader(), loader(40, shuffle=False, drop_last=True))
    assert callback.events[0].calibration.batches == 2
    callback = reflow(calibration_data="val", calibration_batches=3)
    trainer(callback, max_epochs=1).fit(Module(), loader(), loader(40, shuffle=False))
    assert callback.events[0].calibration.batches == 3


def test_overfitting_calibrates_on_what_is_trained_on():
    seen = []
    callback = reflow(calibration_batches=1, monitor=False, forward=lambda m, b: seen.append(b[0]) or m(b[0]))
    trainer(callback, overfit_batches=1).fit(Module(), loader())
    assert all(torch.equal(batch, images(64)[:16]) for batch in seen)


def test_a_forward_that_fails_is_found_at_the_start():
    class Headless(Module):
        def forward(self, x):
            if not self.training:
                raise RuntimeError("no eval mode")
            return super().forward(x)

        def validation_step(self, batch, batch_idx):
            pass

    runner = trainer(reflow(schedule=OneShot(fraction=1.0), monitor=False))
    with pytest.raises(RuntimeError, match="no eval mode"):
        runner.fit(Headless(), loader())
    assert runner.global_step == 0


def test_clipping_sees_only_what_is_alive():
    norms = []

    class Watch(Module):
        def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
            norms.append(
                sum(int((p.grad != 0).sum()) for p in (self.net[0].weight, self.net[4].weight, self.net[9].weight))
            )

    fit(reflow(), Watch())
    assert max(norms) <= SIZE - round(0.5 * SIZE)


def test_other_callbacks_can_monitor_the_sparsity():
    _, runner = fit(reflow())
    assert float(runner.callback_metrics["sparsity/global"]) == pytest.approx(0.5)


def test_an_explicit_monitor_is_kept_beside_another(tmp_path):
    own = reflow(monitor=SignalMonitor(1, layers="net.0"))
    runner = trainer(own, SignalMonitor(1, layers="net.9"), logger=CSVLogger(tmp_path, name="", version=""))
    runner.fit(Module(), loader())
    with (tmp_path / "metrics.csv").open() as file:
        columns = csv.DictReader(file).fieldnames
    assert {"variance/net.0", "variance/net.9"} <= set(columns)


def test_the_monitor_counts_steps_not_batches(tmp_path):
    logger = CSVLogger(tmp_path, name="", version="")
    trainer(SignalMonitor(2), logger=logger, accumulate_grad_batches=2, max_epochs=4).fit(Module(), loader())
    with (tmp_path / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("variance/net.1")]
    assert len(rows) == 4  # of 8 steps in 16 batches


def test_the_callback_can_be_copied_and_sent_to_another_process():
    callback = reflow()
    fit(callback)
    for other in (copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
        assert other.masks == callback.masks


def calibration_loader():
    return loader(64, 16)


def test_apply_prunes_and_repairs_without_a_training():
    module = Module()
    callback = Reflow(0.5, calibration_batches=4)
    event = callback.apply(module, calibration_loader())
    assert zeros(module) == round(0.5 * SIZE)
    assert event.calibration.batches == 4
    assert set(event.signal) == {"dense", "pruned", "repaired"}
    assert callback.events == [event]


def test_apply_to_another_model_starts_anew():
    first, second, alone = Module(), Module(), Reflow(0.5)
    alone.apply(second_copy := copy.deepcopy(second), calibration_loader())
    callback = Reflow(0.5)
    callback.apply(first, calibration_loader())
    callback.apply(second, calibration_loader())
    assert all(torch.equal(a, b) for a, b in zip(second.parameters(), second_copy.parameters(), strict=True))


def test_a_fit_after_apply_to_another_model_starts_anew():
    callback = Reflow(0.5)
    callback.apply(Module(), calibration_loader())
    before = callback.masks
    trainer(callback, max_epochs=1).fit(module := Module(), loader())
    assert zeros(module) == round(0.5 * SIZE)
    assert any(not torch.equal(before[name], mask) for name, mask in callback.masks.items())


def test_the_seed_chooses_the_calibration_batches():
    module = Module()
    variances = []
    for seed in (0, 0, 1):
        copied = copy.deepcopy(module)
        Reflow(0.5, calibration_batches=2, seed=seed).apply(copied, calibration_loader())
        variances.append(copied.net[1].running_var)
    assert torch.equal(variances[0], variances[1])
    assert not torch.equal(variances[0], variances[2])


@pytest.mark.parametrize(
    ("monitor", "between"),
    [(True, {"variance"}), (SignalMonitor(metrics=["entropy"]), {"variance", "entropy", "saturated"})],
)
def test_all_metrics_are_measured_at_the_last_pruning_and_before_it_what_is_asked_for(tmp_path, monitor, between):
    callback = reflow(schedule=Gradual(every_n_steps=3), monitor=monitor)
    fit(callback, logger=CSVLogger(tmp_path, name="", version=""), log_every_n_steps=1)
    rows = table(tmp_path / "signal.csv")
    pruned = [row for row in rows if row["stage"] == "pruned"]
    first, last = (next(row for row in pruned if row["step"] == step) for step in ("3", "6"))
    assert {"variance", "entropy", "saturated"} & {name for name, value in first.items() if value} == between
    assert {"variance", "cka", "entropy"} <= {name for name, value in last.items() if value}
    assert {row["step"] for row in table(tmp_path / "rectifiers.csv")} == {"6"}
    columns = set(table(tmp_path / "metrics.csv")[0])
    assert ("dead/net.1" in columns, "rectifier_entropy/net.0" in columns) == (False, False)


class Ensemble(Module):
    """Three networks at once by `torch.vmap`, whose layers are called with the weights of all."""

    def __init__(self):
        super().__init__()
        self.net = nn.ModuleList(nn.Sequential(nn.Flatten(0), nn.LazyLinear(4)) for _ in range(3))
        for member in self.net:
            member(images(1)[0])

    def forward(self, x):
        stacked, _ = torch.func.stack_module_state(list(self.net))
        one = torch.vmap(lambda x, weights: torch.func.functional_call(self.net[0], weights, (x,)), (0, None))
        return torch.vmap(one, (None, 0))(x, stacked).mean(0)


def test_an_ensemble_by_vmap_is_pruned_and_its_layers_are_left_alone():
    callback = reflow(schedule=OneShot(epoch=1))
    with pytest.warns(UserWarning, match="no batch reached it"):
        module, _ = fit(callback, Ensemble())
    assert callback.masks.sparsity == pytest.approx(0.5, abs=0.01)
    pairs = zip(callback.masks.parameters(module), callback.masks.values(), strict=True)
    assert all(not p[~mask].any() for p, mask in pairs)
