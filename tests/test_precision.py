import lightning.pytorch as pl
import pytest
import torch
from helpers import Module, loader, selected_size, trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import nn

from reflow_lightning import Gradual, OneShot, Reflow, prune
from reflow_lightning.pruning.bits import zero_where_pruned
from reflow_lightning.pruning.keeping import ZeroKeeper

SIZE = selected_size(Module())
SCALE = 2.0**10
DTYPES = {
    "32-true": torch.float32,
    "64-true": torch.float64,
    "16-true": torch.float16,
    "bf16-true": torch.bfloat16,
    "16-mixed": torch.float32,
    "bf16-mixed": torch.float32,
}
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits(values):
    return values.detach().contiguous().view(BITS[values.element_size()])


class Steady(Module):
    """Without dropout, so that two trainings on the same batches are the same."""

    def __init__(self, optimizer="sgd", **options):
        super().__init__(optimizer, **options)
        self.net[3] = nn.Identity()


class Watch(pl.Callback):
    """Compares after every step what was pruned with zero, bit for bit, in weights and in moments."""

    def __init__(self, reflow):
        self.reflow = reflow
        self.steps = 0

    def on_train_batch_end(self, trainer, pl_module, *args):
        for name, mask in (self.reflow.masks or {}).items():
            weight = pl_module.get_parameter(name)
            states = [optimizer.state.get(weight, {}) for optimizer in trainer.optimizers]
            moments = [value for state in states for value in state.values() if value.shape == weight.shape]
            assert not any(bits(values)[~mask].any() for values in (weight, *moments))
        self.steps += self.reflow.masks is not None


def reflow(schedule, sparsity=0.7):
    return Reflow(sparsity, schedule=schedule, calibration_batches=2)


def scaler():
    return torch.amp.GradScaler("cpu", init_scale=SCALE)


def in_precision(name):
    """Lightning has no 16-mixed on a CPU, but its plugin runs there."""
    if name == "16-mixed":
        return {"plugins": MixedPrecision(name, device="cpu", scaler=scaler())}
    return {"precision": name}


def fit(callback, module=None, *others, ckpt_path=None, **options):
    module = module or Steady()
    runner = trainer(callback, *others, **options)
    runner.fit(module, loader(shuffle=False), loader(32, shuffle=False), ckpt_path=ckpt_path)
    return module, runner


def equal(first, second):
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


# -- every precision


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("schedule", [OneShot(step=3), Gradual(every_n_steps=2)])
def test_zeros_hold_and_the_rest_is_trained(precision, schedule):
    callback = reflow(schedule)
    watch = Watch(callback)
    initial = {}
    callback.listeners.append(
        lambda stage, module: initial.update({n: p.detach().clone() for n, p in module.named_parameters()})
    )
    module, _ = fit(callback, None, watch, **in_precision(precision))
    assert watch.steps > 4
    assert sum(int((~mask).sum()) for mask in callback.masks.values()) == round(0.7 * SIZE)
    for name, mask in callback.masks.items():
        weight = module.get_parameter(name)
        assert weight.dtype == DTYPES[precision]
        assert weight.isfinite().all()
        assert not torch.equal(weight[mask], initial[name][mask])
    for layer in (module.net[1], module.net[5]):
        assert layer.running_mean.isfinite().all()
        assert layer.running_var.isfinite().all()
        assert layer.running_var.min() > 0
    assert all(event.calibration.repaired == ("net.1", "net.5") for event in callback.events[:-1])
    assert callback.events[-1].calibration.repaired == ("net.1", "net.5", "net.9")
    assert all(torch.tensor(r.variance).isfinite() for s in callback.events[-1].signal.values() for r in s.rows)


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("schedule", [OneShot(step=2), OneShot(step=6), Gradual(every_n_steps=1, end=1.0)])
def test_a_resumed_run_ends_as_the_uninterrupted_one(precision, schedule, tmp_path):
    class Save(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 0:
                trainer.save_checkpoint(tmp_path / "half.ckpt")

    # Lightning loads a checkpoint before it converts the module: float64 would pass through float32.
    modules = [Steady().to(DTYPES[precision]) for _ in range(2)]
    module, _ = fit(whole := reflow(schedule), modules[0], Save(), **in_precision(precision))
    resumed, _ = fit(rest := reflow(schedule), modules[1], ckpt_path=tmp_path / "half.ckpt", **in_precision(precision))
    assert equal(module, resumed)
    assert whole.masks == rest.masks
    assert [event.step for event in whole.events if event.step > 4] == [event.step for event in rest.events]


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed", "bf16-true"])
def test_statistics_in_a_narrow_precision_are_close_to_those_in_float32(precision):
    found = {}
    for name in ("32-true", precision):
        pl.seed_everything(0, verbose=False)
        module, _ = fit(reflow(OneShot()), Steady(), max_steps=1, **in_precision(name))
        found[name] = [module.net[5].running_mean.float(), module.net[5].running_var.float()]
    for narrow, wide in zip(found[precision], found["32-true"], strict=True):
        torch.testing.assert_close(narrow, wide, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("precision", DTYPES)
def test_calibration_and_measurement_run_in_the_precision_of_the_training(precision):
    seen = set()

    def forward(module, batch):
        output = module(batch[0])
        seen.add((batch[0].dtype, output.dtype))
        return output

    fit(Reflow(0.5, calibration_batches=2, forward=forward), max_steps=1, **in_precision(precision))
    mixed = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}
    assert seen == {(DTYPES[precision], mixed.get(precision, DTYPES[precision]))}


# -- a scaler that skips steps


class Overflowing(Steady):
    """Its second batch overflows in half precision."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss * 1e30 if batch_idx == 1 else loss

    def configure_optimizers(self):
        if self.optimizer == "fused":  # it is told of the overflow and skips the step itself
            return torch.optim.AdamW(self.parameters(), 0.01, fused=True)
        return super().configure_optimizers()


class Skipped(pl.Callback):
    """The steps after which every parameter is what it was before."""

    def __init__(self):
        self.steps = []

    def on_train_batch_start(self, trainer, pl_module, *args):
        self.before = [p.detach().clone() for p in pl_module.parameters()]

    def on_train_batch_end(self, trainer, pl_module, *args):
        if all(map(torch.equal, self.before, pl_module.parameters())):
            self.steps.append(trainer.global_step)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "fused"])
@pytest.mark.parametrize("schedule", [OneShot(step=1), OneShot(step=2), OneShot(step=3), Gradual(every_n_steps=1)])
def test_skipped_steps_leave_the_zeros_and_the_schedule_alone(optimizer, schedule):
    callback, skipped, scaling = reflow(schedule), Skipped(), scaler()
    watch = Watch(callback)
    plugin = MixedPrecision("16-mixed", device="cpu", scaler=scaling)
    fit(callback, Overflowing(optimizer), skipped, watch, plugins=plugin, max_epochs=3)
    assert scaling.get_scale() == SCALE / 2**3
    assert 10 in skipped.steps  # 2 and 6 too, unless weights were pruned just then
    assert watch.steps >= 8
    assert callback.masks.sparsity == round(0.7 * SIZE) / SIZE
    steps = [event.step for event in callback.events]
    assert steps == (sorted(set(steps)) if isinstance(schedule, Gradual) else [schedule.step])


def test_clipping_under_a_scaler_that_skips_steps():
    callback = reflow(OneShot(step=2))
    watch = Watch(callback)
    plugin = MixedPrecision("16-mixed", device="cpu", scaler=scaler())
    fit(callback, Overflowing(), watch, plugins=plugin, gradient_clip_val=0.1, accumulate_grad_batches=2, max_epochs=4)
    assert watch.steps == 4 * 4 - 3
    assert [event.step for event in callback.events] == [2]


# -- gradients of pruned weights


class Disturbed(Steady):
    """Every pruned weight gets a gradient that is no number or beyond all."""

    callback = None

    def on_after_backward(self):
        if self.callback is not None:
            for name, mask in (self.callback.masks or {}).items():
                gradient = self.get_parameter(name).grad
                odd = torch.tensor([float("inf"), float("nan"), -1e30], dtype=gradient.dtype)
                gradient[~mask] = odd.repeat(SIZE)[: (~mask).sum()]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate_grad_batches": 2},
        {"gradient_clip_val": 0.05},
        {"gradient_clip_val": 0.001, "gradient_clip_algorithm": "value"},
        {"gradient_clip_val": 0.05, "accumulate_grad_batches": 2, "precision": "bf16-mixed"},
        {"gradient_clip_val": 0.05, "precision": "64-true"},
    ],
)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_gradients_of_pruned_weights_do_no_harm(options, optimizer):
    modules = []
    for disturbed in (False, True):
        pl.seed_everything(0, verbose=False)
        callback = reflow(OneShot(step=1))
        module = Disturbed(optimizer)
        module.callback = callback if disturbed else None
        modules.append(fit(callback, module, Watch(callback), **options)[0])
    assert equal(*modules)
    assert all(p.isfinite().all() for p in modules[1].parameters())


def test_clipping_changes_the_training_so_that_the_test_above_means_something():
    modules = []
    for options in ({}, {"gradient_clip_val": 0.05}, {"gradient_clip_val": 0.001, "gradient_clip_algorithm": "value"}):
        pl.seed_everything(0, verbose=False)
        modules.append(fit(reflow(OneShot(step=1)), Steady(), **options)[0])
    assert not equal(modules[0], modules[1])
    assert not equal(modules[0], modules[2])
    assert not equal(modules[1], modules[2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_whatever_the_number_is_it_becomes_a_plain_zero(dtype):
    odd = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, -1.0, torch.finfo(dtype).max], dtype=dtype)
    values, kept = odd.repeat(2), torch.tensor([False] * 6 + [True] * 6)
    zero_where_pruned([values], [kept])
    assert not bits(values)[:6].any()
    assert torch.equal(bits(values)[6:], bits(odd))  # what stays is not touched, not even a NaN


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_gradients_weights_and_moments_that_are_no_numbers_are_erased_where_pruned(dtype, value):
    model = nn.Linear(8, 8).to(dtype)
    optimizer = torch.optim.Adam(model.parameters())
    keeper = ZeroKeeper()
    keeper.bind(model, masks := prune(model, 0.5))
    keeper.watch()
    pruned = ~masks["weight"]
    optimizer.state[model.weight] = {name: torch.ones_like(model.weight) for name in ("exp_avg", "exp_avg_sq")}
    model.weight.grad = torch.ones_like(model.weight)
    moments = list(optimizer.state[model.weight].values())
    with torch.no_grad():
        for tensor in (model.weight, model.weight.grad, *moments):
            tensor[pruned] = value
    keeper.mask_gradients()
    keeper.forget_moments(optimizer)
    keeper.set_zeros()
    for tensor in (model.weight, model.weight.grad, *moments):
        assert not bits(tensor)[pruned].any()
        assert (tensor[~pruned] != 0).all()
