"""Zeros that come back: weights that move without a step of the Trainer's optimizers."""

from __future__ import annotations

import copy
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, ModelPruning
from torch import Tensor, nn, optim
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, TensorDataset

from field_cases.trial import Kind
from reflow_lightning import OneShot, Reflow

SPARSITY = 0.8


def network() -> nn.Sequential:
    """352 weights."""
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))


class Task(pl.LightningModule):
    """Trains ``net``; each subclass moves weights in a way of its own."""

    follower: str | None = None  # the name of a network that follows

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def loss(self, batch: Any) -> Tensor:
        return cross_entropy(self.net(batch[0]), batch[1])

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, _: int) -> Any:
        return self.loss(batch)

    def validation_step(self, batch: Any, _: int) -> None:
        self.log("loss", self.loss(batch))

    def configure_optimizers(self) -> Any:
        return optim.SGD(self.net.parameters(), 0.05, momentum=0.9, weight_decay=0.01)


class Manual(Task):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


class OwnOptimizer(Manual):
    def on_fit_start(self) -> None:
        self.own = optim.Adam(self.net.parameters(), 0.01)

    def training_step(self, batch: Any, _: int) -> None:
        self.own.zero_grad()
        self.loss(batch).backward()
        self.own.step()

    def configure_optimizers(self) -> None:
        return None


class OptimizerBehindLightning(Manual):
    def training_step(self, batch: Any, _: int) -> None:
        plain = self.optimizers().optimizer
        plain.zero_grad()
        self.loss(batch).backward()
        plain.step()


class InBackward(Manual):
    def on_fit_start(self) -> None:
        self.each = {p: optim.SGD([p], 0.05, momentum=0.9) for p in self.net.parameters()}
        for parameter in self.each:
            parameter.register_post_accumulate_grad_hook(self.step)

    def step(self, parameter: nn.Parameter) -> None:
        self.each[parameter].step()
        self.each[parameter].zero_grad()

    def training_step(self, batch: Any, _: int) -> None:
        self.loss(batch).backward()

    def configure_optimizers(self) -> None:
        return None


class GradientByHand(Manual):
    """No optimizer at all."""

    def training_step(self, batch: Any, _: int) -> None:
        gradients = torch.autograd.grad(self.loss(batch), list(self.net.parameters()))
        for parameter, gradient in zip(self.net.parameters(), gradients, strict=True):
            parameter.data.sub_(gradient, alpha=0.05)

    def configure_optimizers(self) -> None:
        return None


class TwoStep(optim.Optimizer):
    """Sharpness-aware minimisation, whose two steps are no ``step()``."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"rho": 0.05})
        self.base = optim.SGD(self.param_groups, lr=0.05, momentum=0.9)
        self.param_groups = self.base.param_groups

    @torch.no_grad()
    def up(self) -> None:
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter]["old"] = parameter.data.clone()
            parameter.add_(parameter.grad, alpha=0.05)
        self.zero_grad()

    @torch.no_grad()
    def down(self) -> None:
        for parameter in self.param_groups[0]["params"]:
            parameter.data = self.state[parameter]["old"]
        self.base.step()
        self.zero_grad()


class Sam(Manual):
    def training_step(self, batch: Any, _: int) -> None:
        optimizer = self.optimizers()
        for act in (optimizer.up, optimizer.down):
            self.manual_backward(self.loss(batch))
            act()

    def configure_optimizers(self) -> Any:
        return TwoStep(self.net.parameters())


class SamWithClosure(Task):
    class Optimizer(TwoStep):
        def step(self, closure: Callable[[], Any]) -> Any:
            loss = closure()
            self.up()
            closure()
            self.down()
            return loss

    def configure_optimizers(self) -> Any:
        return self.Optimizer(self.net.parameters())


def after_batch(write: Callable[[Any], None]) -> type[Task]:
    """A task that writes into its network after each batch."""

    class Writes(Task):
        def on_train_batch_end(self, *_: Any) -> None:
            with torch.no_grad():
                for parameter in self.net.parameters():
                    write(parameter)

    return Writes


def replace(parameter: Any) -> None:
    parameter.data = parameter.data + 0.01


def with_numpy(parameter: Any) -> None:
    parameter.detach().numpy()[...] += 0.01


class Lookahead(Task):
    def on_train_batch_end(self, *_: Any) -> None:
        self.slow = getattr(self, "slow", None) or [p.detach().clone() for p in self.net.parameters()]
        for slow, parameter in zip(self.slow, self.net.parameters(), strict=True):
            slow.lerp_(parameter.detach(), 0.5)
            parameter.data.copy_(slow)


class Restores(Task):
    """Goes back to the weights of the start every few batches."""

    def on_fit_start(self) -> None:
        self.first = copy.deepcopy(self.net.state_dict())

    def on_train_batch_start(self, batch: Any, index: int) -> None:
        if index % 3 == 1:
            self.net.load_state_dict(self.first)


class InItsOwnValidation(Task):
    """Validates an average that it keeps aside."""

    def on_train_batch_end(self, *_: Any) -> None:
        self.average = getattr(self, "average", None) or [p.detach() + 0.1 for p in self.net.parameters()]

    def on_validation_start(self) -> None:
        self.kept = [p.detach().clone() for p in self.net.parameters()]
        self.write(getattr(self, "average", self.kept))

    def on_validation_end(self) -> None:
        self.write(self.kept)

    def write(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self.net.parameters(), values, strict=True):
            parameter.data.copy_(value)


class AtTheEnd(Task):
    def on_train_end(self) -> None:
        for parameter in self.net.parameters():
            parameter.data.add_(0.1)


class Follows(Task):
    """A target network that follows the trained one after each batch, as in BYOL."""

    follower = "target"

    def __init__(self) -> None:
        super().__init__()
        self.target = copy.deepcopy(self.net).requires_grad_(False)

    def follow(self, *_: Any) -> None:
        for target, online in zip(self.target.parameters(), self.net.parameters(), strict=True):
            target.data.mul_(0.9).add_(online.data, alpha=0.1)

    on_train_batch_end = follow


class FollowsBeforeTheStep(Follows):
    """As in MoCo."""

    on_train_batch_end = pl.LightningModule.on_train_batch_end

    def training_step(self, batch: Any, _: int) -> Tensor:
        self.follow()
        return self.loss(batch) + (self.target(batch[0]) - self.net(batch[0])).square().mean()


class FollowsBeforeZeroGrad(Follows):
    """As in lightly."""

    on_train_batch_end = pl.LightningModule.on_train_batch_end

    def on_before_zero_grad(self, *_: Any) -> None:
        self.follow()


class StartedElsewhere(Follows):
    """A target that is not equal to the trained network at first."""

    def __init__(self) -> None:
        super().__init__()
        self.target = network().requires_grad_(False)


class HardUpdates(Follows):
    """As in DQN: a copy, every few batches."""

    def follow(self, *_: Any) -> None:
        if _[-1] % 3 == 2:
            self.target.load_state_dict(self.net.state_dict())

    on_train_batch_end = follow


class Averaged(Task):
    follower = "average.module"

    def __init__(self) -> None:
        super().__init__()
        self.average = AveragedModel(self.net, avg_fn=lambda a, p, n: 0.9 * a + 0.1 * p)

    def on_train_batch_end(self, *_: Any) -> None:
        self.average.update_parameters(self.net)


TASKS: dict[str, Callable[[], Task]] = {
    "an optimizer of the module's own": OwnOptimizer,
    "the optimizer behind Lightning's": OptimizerBehindLightning,
    "an optimizer in backward": InBackward,
    "gradients applied by hand": GradientByHand,
    "two-step SAM": Sam,
    "SAM with a closure": SamWithClosure,
    "written after the batch": after_batch(lambda p: p.add_(0.01)),
    "written through data": after_batch(lambda p: p.data.add_(0.01)),
    "data replaced": after_batch(replace),
    "written through NumPy": after_batch(with_numpy),
    "clipped": after_batch(lambda p: p.clamp_(0.01, 1.0)),
    "noise": after_batch(lambda p: p.add_(torch.randn_like(p), alpha=0.01)),
    "Lookahead by hand": Lookahead,
    "weights loaded in a hook": Restores,
    "other weights for the validation": InItsOwnValidation,
    "written when the training ends": AtTheEnd,
    "a target that follows": Follows,
    "a target that follows before the step": FollowsBeforeTheStep,
    "a target that follows before zero_grad": FollowsBeforeZeroGrad,
    "a target that began elsewhere": StartedElsewhere,
    "a target that is copied now and then": HardUpdates,
    "an AveragedModel in the module": Averaged,
}


class Look(pl.Callback):
    """Counts pruned weights that are not zero, wherever somebody can see them."""

    def __init__(self, reflow: Reflow) -> None:
        self.reflow = reflow
        self.seen: list[str] = []

    def look(self, module: Task, where: str) -> None:
        masks = self.reflow.masks
        if masks is None:
            return
        values = dict(module.named_parameters())
        back = sum(int(values[name][~mask].count_nonzero()) for name, mask in masks.items())
        sparsity = [float((p == 0).float().mean()) for p in self.matrices(module, module.follower or "net")]
        if back or max(sparsity) < SPARSITY / 2:
            self.seen.append(f"{back} pruned weights were back {where}, {max(sparsity):.2f} zeros")

    def matrices(self, module: nn.Module, name: str) -> list[nn.Parameter]:
        return [p for p in module.get_submodule(name).parameters() if p.ndim > 1]

    def on_train_batch_start(self, trainer: Any, module: Any, *_: Any) -> None:
        self.look(module, "at a batch")

    def on_validation_batch_start(self, trainer: Any, module: Any, *_: Any) -> None:
        self.look(module, "at a validation")


def data() -> DataLoader[Any]:
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(x, x[:, :3].argmax(1)), 8)


def trainer(folder: str, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(callbacks=list(callbacks), default_root_dir=folder, **{"max_epochs": 3, **quiet, **options})


def attempt(task: Callable[[], Task]) -> str:
    torch.manual_seed(0)
    module, reflow = task(), Reflow(SPARSITY, schedule=OneShot(epoch=1), repair="none", monitor=False)
    look = Look(reflow)
    with tempfile.TemporaryDirectory() as folder:
        saving = [
            ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_train_steps=2),
            ModelCheckpoint(folder, filename="light{step}", save_top_k=-1, save_weights_only=True),
        ]
        trainer(folder, reflow, look, *saving).fit(module, data(), data())
        look.look(module, "after the training")
        for path in sorted(Path(folder).glob("*.ckpt")):
            state = torch.load(path, weights_only=True)
            other = task()
            other.load_state_dict(state["state_dict"])
            if state["epoch"] >= 1:
                look.look(other, f"in a checkpoint of epoch {state['epoch']}")
    return look.seen[0] if look.seen else ""


class Zeros(pl.Callback):
    """The smallest share of zeros that a validation has seen from the second epoch on."""

    least = 1.0

    def on_validation_batch_start(self, trainer: Any, module: Any, *_: Any) -> None:
        if trainer.current_epoch >= 1:
            net = module.get_submodule(module.follower or "net")
            weights = torch.cat([net.get_submodule(name).weight.flatten() for name in ("0", "2")])
            self.least = min(self.least, float((weights == 0).float().mean()))


def keeps_zeros(task: Callable[[], Task]) -> bool:
    torch.manual_seed(0)
    module, zeros = task(), Zeros()
    nets = [module.net, *([module.get_submodule(module.follower)] if module.follower else [])]
    pruning = ModelPruning(
        "l1_unstructured",
        parameters_to_prune=[(net[place], "weight") for net in nets for place in (0, 2)],
        amount=SPARSITY,
        apply_pruning=lambda epoch: epoch == 0,
    )
    with tempfile.TemporaryDirectory() as folder:
        try:
            trainer(folder, pruning, zeros).fit(module, data(), data())
        except Exception:
            return False
    return zeros.least > SPARSITY / 2


def peer() -> str:
    return f"zeros at each validation in {sum(map(keeps_zeros, TASKS.values()))} of {len(TASKS)}"


KINDS = [
    Kind(
        "zeros",
        "weights move without a step of the Trainer's optimizers",
        ", ".join(TASKS),
        {name: functools.partial(attempt, task) for name, task in TASKS.items()},
        peer,
    )
]
