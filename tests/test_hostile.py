"""Whatever fails in a prune event, all is as it was; and input that is odd but valid has the right result."""

import copy
import pickle
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from helpers import Module, images, loader, selected_size, small_net, trainer, zeros
from torch import nn

from reflow_lightning import Gradual, Masks, OneShot, Reflow, calibrate, measure_signal, prune
from reflow_lightning.calibration.calibrate import repair_batchnorm
from reflow_lightning.pruning import ColumnSum

SIZE = selected_size(Module())
HALF = round(0.5 * SIZE)
PRUNED_ONCE = OneShot(step=2)


def everything(model: nn.Module) -> dict[str, Any]:
    """All that a prune event may leave a trace in, so that it compares bit for bit, NaN included."""
    modules = list(model.modules())
    return {
        "values": {name: value.detach().cpu().numpy().tobytes() for name, value in model.state_dict().items()},
        "training": [module.training for module in modules],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in modules],
        "attributes": [sorted(vars(module)) for module in modules],
        "random": (torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())),
    }


class Before(pl.Callback):
    """Stands before Reflow: what everything was at the last moment that it had to act."""

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.seen = everything(pl_module)


@dataclass
class CallsThatFail:
    """Counts calls and raises at the k-th; without a k it only counts."""

    at: int = 0
    calls: int = 0
    error: Exception = field(default_factory=lambda: RuntimeError("this very one"))

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == self.at:
            raise self.error


def draw() -> None:
    """What a transform or a dropout layer does."""
    random.random(), np.random.rand(), torch.rand(1)


def failing(where: str, fail: CallsThatFail) -> Reflow:
    """A callback whose calibration, listener or repair asks `fail` each time."""

    def forward(module, batch):
        draw()
        if where == "forward":
            fail()
        return module(batch[0])

    def batches() -> Iterator[tuple[torch.Tensor]]:
        for batch in images(64).split(16):
            draw()
            if where == "loader":
                fail()
            yield (batch,)

    def repair(*arguments):
        fail()
        return repair_batchnorm(*arguments)

    callback = Reflow(
        0.5,
        schedule=PRUNED_ONCE,
        calibration_batches=3,
        calibration_data=batches,
        forward=forward,
        repair=repair if where == "repair" else "auto",
    )
    if where == "listener":
        callback.listeners.append(lambda stage, module: fail())
    return callback


@contextmanager
def nothing_is_changed(before: Before, module: nn.Module, callback: Reflow) -> Iterator[None]:
    yield
    assert everything(module) == before.seen
    assert callback.masks is None
    assert callback.events == []
    assert zeros(module) == 0


@pytest.mark.parametrize(("where", "calls"), [("forward", 12), ("loader", 6), ("listener", 3), ("repair", 1)])
def test_whichever_call_raises_the_fit_ends_with_that_error_and_all_is_as_it_was(where, calls):
    counted = CallsThatFail()
    trainer(failing(where, counted)).fit(Module(), loader())
    assert counted.calls == calls  # 3 batches: of the profile dense, pruned and repaired, and of the calibration
    for k in range(1, calls + 1):
        fail, module, before = CallsThatFail(k), Module(), Before()
        callback = failing(where, fail)
        with nothing_is_changed(before, module, callback), pytest.raises(RuntimeError) as raised:
            trainer(before, callback).fit(module, loader())
        assert raised.value is fail.error


@pytest.mark.parametrize("where", ["forward", "loader", "listener", "repair"])
def test_the_same_callback_prunes_at_the_next_fit(where):
    fail, module = CallsThatFail(1), Module()
    callback = failing(where, fail)
    with pytest.raises(RuntimeError, match="this very one"):
        trainer(callback).fit(module, loader())
    trainer(callback).fit(module, loader())
    assert zeros(module) == HALF


@pytest.mark.parametrize(("where", "calls"), [("forward", 12), ("loader", 6), ("listener", 3), ("repair", 1)])
def test_without_a_training_it_is_the_same(where, calls):
    for k in range(1, calls + 1):
        fail, model = CallsThatFail(k), small_net().train()
        callback = failing(where, fail)
        batches = FailingBatches(fail) if where == "loader" else [(batch,) for batch in images(64).split(16)]
        before = everything(model)
        with pytest.raises(RuntimeError) as raised:
            callback.apply(model, batches)
        assert raised.value is fail.error
        assert everything(model) == before
        assert callback.masks is None


class FailingBatches:
    """Batches that can be iterated again and fail at the k-th of all."""

    def __init__(self, fail: CallsThatFail) -> None:
        self.fail = fail

    def __iter__(self) -> Iterator[tuple[torch.Tensor]]:
        for batch in images(64).split(16):
            draw()
            self.fail()
            yield (batch,)


# -- activations that are no numbers


def poisoned(layer: int, channel: int, value: float, network: Callable[[nn.Module], nn.Module]):
    """A forward pass in which one channel of the output of one layer has another value."""

    def forward(module, batch):
        def poison(_, args, output):
            return output.index_fill(1, torch.tensor([channel]), value)

        handle = network(module)[layer].register_forward_hook(poison)
        try:
            return module(batch[0] if isinstance(batch, (tuple, list)) else batch)
        finally:
            handle.remove()

    return forward


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("layer", "named"), [(0, "1"), (4, "5")], ids=["first", "last"])
def test_one_channel_that_is_no_number_names_its_layer(layer, named, value):
    model = small_net().train()
    before = everything(model)
    forward = poisoned(layer, 3, value, lambda model: model)
    text = rf"layer '{named}' gets values that are NaN, infinite or too large for torch.float32 in 1 of 8 channels"
    with pytest.raises(ValueError, match=text):
        calibrate(model, list(images(64).split(16)), max_batches=4, forward=forward)
    assert everything(model) == before


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(("layer", "named"), [(0, "net.1"), (4, "net.5")], ids=["first", "last"])
@pytest.mark.parametrize("monitor", [True, False])
def test_in_a_fit_the_whole_prune_event_is_undone(layer, named, value, monitor):
    module, before = Module(), Before()
    forward = poisoned(layer, 3, value, lambda module: module.net)
    callback = Reflow(0.5, schedule=PRUNED_ONCE, calibration_batches=2, forward=forward, monitor=monitor)
    with nothing_is_changed(before, module, callback), pytest.raises(ValueError, match=rf"layer '{named}' .* 1 of 8"):
        trainer(before, callback).fit(module, loader())


def test_a_signal_that_is_no_number_is_reported_as_none():
    batch = images(16)
    batch[3] = torch.nan
    report = measure_signal(small_net(), [batch], reference=small_net(), max_batches=1)
    assert all(np.isnan([row.variance, row.cosine]).all() for row in report.rows)
    report.figure()


# -- constant activations


def test_constant_channels_have_their_mean_no_variance_and_give_no_nan():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))
    values = torch.randn(64, 3)
    values[:, 1] = 7.0
    calibrate(model, values.split(16), max_batches=4)
    assert model[0].running_mean[1] == 7
    assert model[0].running_var[1] == 0
    assert torch.isfinite(model.eval()(values)).all()
    assert measure_signal(model, [values], max_batches=1).rows[0].dead == pytest.approx(1 / 3)


@pytest.mark.parametrize("value", [0.0, 1.0, -1e4, 1e-30])
def test_a_network_without_any_signal_is_dead_and_its_report_can_be_drawn(value, tmp_path):
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    batches = [torch.full((16, 4), value)] * 2
    calibrate(model, batches, max_batches=2)
    assert (model[1].running_var < 1e-6).all()
    assert torch.isfinite(model.eval()(batches[0])).all()
    report = measure_signal(model, batches, reference=copy.deepcopy(model), max_batches=2)
    assert [row.dead for row in report.rows] == [1.0, 1.0]
    assert [row.cosine for row in report.rows] == [0.0, 0.0]
    assert "1.000" in report.table()
    report.figure("no signal").savefig(tmp_path / "signal.png")


def test_a_fit_on_constant_input_prunes_and_ends_with_finite_weights():
    x = torch.ones(64, 1, 6, 6)
    batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, torch.zeros(64).long()), 16)
    callback, module = Reflow(0.5, schedule=PRUNED_ONCE, calibration_batches=2), Module()
    trainer(callback).fit(module, batches)
    assert zeros(module) == HALF
    assert all(torch.isfinite(value).all() for value in module.state_dict().values())


# -- BatchNorm of every kind


@pytest.mark.parametrize(("options", "features"), [({}, 1), ({"momentum": None}, 4), ({"affine": False}, 4)])
def test_batchnorm_of_any_kind_gets_population_statistics(options, features):
    layer, values = nn.BatchNorm1d(features, **options).eval(), torch.randn(50, features) * 3 + 1
    calibrate(layer, values.split(10), max_batches=5)
    torch.testing.assert_close(layer.running_mean, values.mean(0))
    torch.testing.assert_close(layer.running_var, values.var(0, correction=0))
    assert not layer.training  # frozen in eval mode before, and so it stays
    assert layer.momentum == options.get("momentum", 0.1)


def test_batchnorm_without_statistics_is_named_and_the_others_are_repaired():
    model = nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False), nn.BatchNorm1d(4))
    with pytest.warns(UserWarning, match=r"left alone '0': it keeps no running statistics \(track_running_stats=False"):
        result = calibrate(model, [torch.randn(16, 4)], max_batches=1)
    assert result.repaired == ("1",)
    assert list(result.skipped) == ["0"]


def test_batches_of_one_sample_are_enough_where_there_are_positions():
    layer, values = nn.BatchNorm2d(3), torch.randn(6, 3, 4, 4)
    calibrate(layer, values.split(1), max_batches=6)
    torch.testing.assert_close(layer.running_var, values.var((0, 2, 3), correction=0))
    model, batches = nn.Sequential(nn.BatchNorm1d(3)), torch.randn(6, 3).split(1)
    before = everything(model)
    with pytest.raises(ValueError, match="one value a channel: use batches of more samples"):
        calibrate(model, batches, max_batches=6)
    assert everything(model) == before


def test_input_that_the_layer_refuses_is_refused_with_its_own_words():
    with pytest.raises(ValueError, match="expected 2D or 3D input"):
        calibrate(nn.BatchNorm1d(3), [torch.randn(3)], max_batches=1)


def test_an_empty_batch_counts_for_nothing():
    layer, values = nn.BatchNorm1d(3), torch.randn(8, 3)
    assert calibrate(layer, [values[:0], values, values[:0]], max_batches=3).batches == 1
    torch.testing.assert_close(layer.running_var, values.var(0, correction=0))


# -- weights of every size


@pytest.mark.parametrize("allocation", ["global", "uniform", "erk", "lamp"])
@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        (torch.float32, 1e38),  # sums, squares and norms are infinite in float32
        (torch.float32, 1e-45),
        (torch.float16, 65504),
        (torch.float16, 6e-8),
        (torch.bfloat16, 3e38),
        (torch.float64, 1e300),
    ],
)
def test_huge_and_tiny_weights_are_ranked_like_any_others(dtype, scale, allocation):
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).to(dtype)
    shares = torch.arange(1, 65, dtype=torch.float64).view(8, 8)[torch.randperm(8)] / 64
    for layer in model:
        layer.weight.data = ((shares if scale > 1 else shares.mul(64).round()) * scale).to(dtype)
    before = [layer.weight.detach().clone() for layer in model]
    masks = prune(model, 0.5, allocation=allocation)
    assert sum(int((~mask).sum()) for mask in masks.values()) == 64
    for layer, old, mask in zip(model, before, masks.values(), strict=True):
        assert torch.equal(layer.weight, torch.where(mask, old, 0))
        assert old[mask].min() >= old[~mask].max()


def test_columns_whose_sums_overflow_are_ranked_by_their_sums():
    model = nn.Linear(4, 8, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([3e38, 1e38, 2e38, 2.5e38]).expand(8, 4))
    assert prune(model, 0.5, criterion=ColumnSum())["weight"][0].tolist() == [True, False, False, True]


def test_negative_zeros_go_first_and_become_plain_zeros():
    model = nn.Linear(4, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1e-45, -0.0, -1e-45, 0.0]]))
    assert prune(model, 0.5)["weight"].tolist() == [[True, False, True, False]]
    assert not torch.signbit(model.weight[0, 1])


@pytest.mark.filterwarnings("ignore:Initializing zero-element.*", "ignore:.*leaves no weight.*")
@pytest.mark.parametrize("allocation", ["global", "uniform", "erk", "lamp"])
def test_layers_of_no_weight_and_of_one(allocation):
    model = nn.Sequential(nn.Linear(0, 3), nn.Linear(1, 1), nn.Linear(3, 3))
    masks = prune(model, 0.5, allocation=allocation)
    assert masks["0.weight"].shape == (3, 0)
    assert sum(int((~mask).sum()) for mask in masks.values()) == 5
    single = nn.Linear(1, 1)
    assert prune(single, 0.4, allocation=allocation)["weight"].item()  # round(0.4) = 0
    assert not prune(single, 0.6, allocation=allocation)["weight"].item()


# -- modules that are used twice, changed, replaced or copied within a training


def test_a_layer_that_is_called_twice_is_pruned_once():
    class Twice(Module):
        def forward(self, x):
            first = self.net[4](self.net[:4](x))
            return self.net[5:](self.net[4](first))

    module, callback = Twice(), Reflow(0.5, schedule=PRUNED_ONCE, calibration_batches=2)
    trainer(callback).fit(module, loader())
    assert zeros(module) == HALF
    assert callback.masks.sparsity == 0.5


class At(pl.Callback):
    """Does something to the module after a step."""

    def __init__(self, step: int, action: Callable[[Module], object]) -> None:
        self.step, self.action = step, action

    def on_train_batch_end(self, trainer, pl_module, *args):
        if trainer.global_step == self.step:
            self.action(pl_module)


def fit_with(step: int, action: Callable[[Module], object], schedule=PRUNED_ONCE) -> Module:
    module = Module()
    trainer(Reflow(0.5, schedule=schedule, calibration_batches=2), At(step, action)).fit(module, loader())
    return module


def renew(module):
    module.net[9] = nn.Linear(8, 3)


def widen(module):
    module.net[9] = nn.Linear(8, 4)


def remove(module):
    module.net[9] = nn.Identity()


def give_new_data(module):
    module.net[9].weight.data = torch.randn(3, 8)


def give_new_data_of_another_shape(module):
    module.net[9].weight.data, module.net[9].bias.data = torch.randn(4, 8), torch.randn(4)


def freeze(module):
    module.net[0].requires_grad_(False)
    module.net[9].requires_grad_(False)


SCHEDULES = pytest.mark.parametrize("schedule", [PRUNED_ONCE, Gradual(every_n_steps=2)], ids=["one shot", "gradual"])


@SCHEDULES
def test_a_layer_that_was_replaced_gets_the_same_zeros_which_a_warning_says(schedule):
    with pytest.warns(UserWarning, match="parameters that Reflow has pruned were replaced: the new ones get the same"):
        assert zeros(fit_with(3, renew, schedule)) == HALF


@SCHEDULES
@pytest.mark.parametrize("action", [give_new_data, freeze])
def test_new_data_and_frozen_layers_keep_the_zeros(action, schedule):
    assert zeros(fit_with(3, action, schedule)) == HALF


@SCHEDULES
@pytest.mark.parametrize(
    ("action", "text"),
    [
        (widen, r"mask 'net.9.weight' has shape \(3, 8\), the model's parameter \(4, 8\)"),
        (give_new_data_of_another_shape, r"mask 'net.9.weight' has shape \(3, 8\), the model's parameter \(4, 8\)"),
        (remove, "mask 'net.9.weight' has no parameter in Module"),
    ],
)
@pytest.mark.parametrize("step", [3, 8], ids=["in between", "after the last step"])
def test_a_layer_that_is_another_now_is_named(action, text, schedule, step):
    with pytest.raises(ValueError, match=text):
        fit_with(step, action, schedule)


@pytest.mark.parametrize("action", [renew, widen, remove, freeze])
def test_before_the_pruning_a_layer_may_become_any_other(action):
    module = fit_with(1, action)
    assert zeros(module) == round(0.5 * selected_size(module))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_copies_of_network_and_callback_from_within_a_training_go_on_alone(duplicate):
    callback, module, copies = Reflow(0.5, schedule=PRUNED_ONCE, calibration_batches=2), Module(), []

    def take_copies(module):
        copies.extend([duplicate(callback), duplicate(module.net)])

    trainer(callback, At(4, take_copies)).fit(module, loader())
    other, net = copies
    assert zeros(net) == zeros(module) == HALF
    assert other.masks == callback.masks
    assert not torch.equal(net[9].weight, module.net[9].weight)  # the original was trained on
    trained, fresh = everything(module)["values"], Module()
    fresh.net = net
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message=".*(many workers|logging interval|LeafSpec|val_dataloader).*")
        trainer(other).fit(fresh, loader())
    assert zeros(fresh) == HALF
    assert everything(module)["values"] == trained


# -- files


class RunsCode:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder) -> None:
        self.folder = folder

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("place", ["alone", "names", "bits"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_mask_file_runs_no_code(place, zipped, tmp_path):
    state = Masks({"weight": torch.tensor([True, False])}).state_dict()
    code = RunsCode(tmp_path / "made by the file")
    content = code if place == "alone" else state | {place: code}
    torch.save(content, tmp_path / "file", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"file is damaged, or no file of Masks\.save"):
        Masks.load(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "content", [torch.ones(3), [1, 2], "text", None, {"state_dict": {"a": torch.ones(2)}}, {"names": ["a"]}]
)
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence.*")
def test_another_kind_of_file_is_no_mask_file(content, tmp_path):
    torch.save(content, tmp_path / "file")
    with pytest.raises(ValueError, match=r"file is damaged, or no file of Masks\.save"):
        Masks.load(tmp_path / "file")
    for raw in (b"", b"hello", b"PK\x03\x04", pickle.dumps({"names": []})):
        (tmp_path / "file").write_bytes(raw)
        with pytest.raises(ValueError, match=r"file is damaged, or no file of Masks\.save"):
            Masks.load(tmp_path / "file")


def test_a_resumed_fit_runs_no_code_of_a_checkpoint(tmp_path):
    runner = trainer(Reflow(0.5, calibration_batches=2), max_epochs=1)
    runner.fit(Module(), loader())
    runner.save_checkpoint(tmp_path / "good.ckpt")
    content = torch.load(tmp_path / "good.ckpt", weights_only=True)
    content["callbacks"]["evil"] = RunsCode(tmp_path / "made by the checkpoint")
    torch.save(content, tmp_path / "evil.ckpt")
    module = Module()
    before = everything(module)["values"]
    for path, kind in (("evil.ckpt", pickle.UnpicklingError), ("good.ckpt", None)):
        run = trainer(Reflow(0.5, calibration_batches=2), max_epochs=2).fit
        if kind is None:  # without the payload the same file does load
            run(module, loader(), ckpt_path=tmp_path / path, weights_only=True)
            continue
        with pytest.raises(kind, match="Weights only load failed"):
            run(module, loader(), ckpt_path=tmp_path / path, weights_only=True)
        assert everything(module)["values"] == before
    assert not (tmp_path / "made by the checkpoint").exists()
