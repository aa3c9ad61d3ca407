"""Tables and equations: inputs in several dictionaries, gradients within the step, steps by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer

from zoo.trainings.batches import SAMPLES, VALIDATION, Data, labels, loader, normal, tensors, whole
from zoo.trainings.training import Training


class Tower(nn.Module):
    def __init__(self, ids: int, width: int = 24) -> None:
        super().__init__()
        self.id, self.bag = nn.Embedding(ids, 8), nn.EmbeddingBag(12, 8, mode="mean")
        self.mlp = nn.Sequential(nn.Linear(16, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 12))

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        x = torch.cat([self.id(features["id"]), self.bag(features["tags"])], 1)
        return F.normalize(self.mlp(x), dim=-1)


class TwoTowers(pl.LightningModule):
    """A batch is (a user, an item, a label), two of them dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.user_tower, self.item_tower = Tower(20), Tower(30)
        self.bias, self.temperature = nn.Embedding(30, 1), nn.Parameter(torch.tensor(0.1))

    def forward(self, user: dict[str, Tensor], item: dict[str, Tensor]) -> Tensor:
        return self.user_tower(user) @ self.item_tower(item).t() / self.temperature + self.bias(item["id"]).t()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        user, item, weight = batch
        scores = self(user, item)
        return (F.cross_entropy(scores, torch.arange(len(scores)), reduction="none") * weight).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adagrad(self.parameters(), 0.05)


class Row(NamedTuple):
    x: Tensor
    price: Tensor
    kind: Tensor


class MultiTask(pl.LightningModule):
    """Two losses with learned weights; gradients are gathered over two batches by hand, with a scheduler."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.automatic_optimization = False
        trunk = [nn.Linear(10, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, width)]
        self.trunk = nn.Sequential(*trunk, nn.BatchNorm1d(width), nn.ReLU())
        self.heads = nn.ModuleDict({"price": nn.Linear(width, 1), "kind": nn.Linear(width, 3)})
        self.log_vars = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.trunk(x)
        return {name: head(h) for name, head in self.heads.items()}

    def losses(self, batch: Row) -> Tensor:
        out = self(batch.x)
        return torch.stack([F.mse_loss(out["price"][:, 0], batch.price), F.cross_entropy(out["kind"], batch.kind)])

    def training_step(self, batch: Row, batch_idx: int) -> None:
        opt, sch = self.optimizers(), self.lr_schedulers()
        loss = ((-self.log_vars).exp() * self.losses(batch) + self.log_vars).sum()
        self.manual_backward(loss / 2)
        if (batch_idx + 1) % 2 == 0:
            torch.nn.utils.clip_grad_norm_(self.parameters(), 1.0)
            opt.step()
            opt.zero_grad()
            sch.step()

    def validation_step(self, batch: Row, batch_idx: int) -> None:
        self.log_dict(dict(zip(("val_price", "val_kind"), self.losses(batch), strict=True)))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), 3e-3)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8)}


class Physics(pl.LightningModule):
    """The heat equation: its loss is made of derivatives of the network, so that no step runs under ``no_grad``."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        layers = [nn.Linear(2, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width)]
        self.net = nn.Sequential(*layers, nn.Tanh(), nn.Linear(width, 1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.net(torch.stack([x, t], -1))[..., 0]

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        (x, t), (x0, u0) = batch["inside"], batch["start"]
        x, t = x.requires_grad_(), t.requires_grad_()
        u = self(x, t)
        u_x, u_t = torch.autograd.grad(u.sum(), (x, t), create_graph=True)
        (u_xx,) = torch.autograd.grad(u_x.sum(), x, create_graph=True)
        return (u_t - 0.1 * u_xx).square().mean() + F.mse_loss(self(x0, torch.zeros_like(x0)), u0)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=2e-3)


class Slope(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.norm, self.fc2 = nn.Linear(width + 1, 32), nn.LayerNorm(32), nn.Linear(32, width)
        self.nfe = 0

    def forward(self, t: Tensor, h: Tensor) -> Tensor:
        self.nfe += 1
        h = torch.cat([h, t.expand(len(h), 1)], 1)
        return self.fc2(F.softplus(self.norm(self.fc1(h))))


class NeuralODE(pl.LightningModule):
    """One block, called sixteen times in a forward pass, which counts its calls."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.into, self.slope, self.out = nn.Linear(6, width), Slope(width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.slope.nfe = 0
        h, dt = self.into(x), torch.tensor(0.25)
        for i in range(4):
            t = i * dt
            k1 = self.slope(t, h)
            k2 = self.slope(t + dt / 2, h + dt / 2 * k1)
            k3 = self.slope(t + dt / 2, h + dt / 2 * k2)
            h = h + dt / 6 * (k1 + 2 * k2 + 2 * k3 + self.slope(t + dt, h + dt * k3))
        return self.out(h)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("nfe", float(self.slope.nfe))
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 5e-3)


class MAML(pl.LightningModule):
    """Each task takes a step of its own within the training step, and the gradient goes through it."""

    def __init__(self, width: int = 40) -> None:
        super().__init__()
        layers = [nn.Linear(1, width), nn.ReLU(), nn.Linear(width, width), nn.LayerNorm(width), nn.ReLU()]
        self.net = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    @torch.enable_grad()
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        total: Any = 0.0
        for x_support, y_support, x_query, y_query in zip(*batch, strict=True):
            fast = dict(self.net.named_parameters())
            loss = F.mse_loss(functional_call(self.net, fast, x_support), y_support)
            grads = torch.autograd.grad(loss, list(fast.values()), create_graph=True)
            fast = {name: p - 0.02 * g for (name, p), g in zip(fast.items(), grads, strict=True)}
            total = total + F.mse_loss(functional_call(self.net, fast, x_query), y_query)
        return total / len(batch[0])

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 2e-3)


class Sharpness(Optimizer):
    """Goes up, then down from there; its ``step`` needs a closure and is not called."""

    def __init__(self, params: Any, rho: float = 0.05, **options: Any) -> None:
        super().__init__(params, {"rho": rho, **options})
        self.base_optimizer = torch.optim.SGD(self.param_groups, **options)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self, zero_grad: bool = False) -> None:
        held = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        scale = self.defaults["rho"] / (torch.stack([p.grad.norm() for p in held]).norm() + 1e-12)
        for p in held:
            self.state[p]["old_p"] = p.data.clone()
            p.add_(p.grad * scale)
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def second_step(self, zero_grad: bool = False) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.data = self.state[p]["old_p"]
        self.base_optimizer.step()
        if zero_grad:
            self.zero_grad()

    def step(self, closure: Callable[[], Any] | None = None) -> None:
        assert closure is not None, "Sharpness Aware Minimization requires closure, but it was not provided"
        self.first_step(zero_grad=True)
        closure()
        self.second_step()


class SAM(pl.LightningModule):
    """Steps twice a batch, by methods that Lightning knows nothing of."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.automatic_optimization = False
        first = [nn.Linear(10, width), nn.BatchNorm1d(width), nn.GELU(), nn.Dropout(0.1)]
        self.model = nn.Sequential(
            *first, nn.Linear(width, width), nn.BatchNorm1d(width), nn.GELU(), nn.Linear(width, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        optimizer = self.optimizers().optimizer
        loss_1 = F.cross_entropy(self(batch[0]), batch[1])
        self.manual_backward(loss_1)
        optimizer.first_step(zero_grad=True)
        self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]))
        optimizer.second_step(zero_grad=True)
        return loss_1

    def configure_optimizers(self) -> Any:
        return Sharpness(self.parameters(), lr=0.05, momentum=0.9)


def rated() -> Any:
    def side(ids: int, seed: int) -> list[dict[str, Tensor]]:
        parts = zip(whole(ids, SAMPLES, seed=seed), whole(12, SAMPLES, 3, seed=seed), strict=True)
        return [{"id": i, "tags": tags} for i, tags in parts]

    return loader(list(zip(side(20, 0), side(30, 1), normal(SAMPLES).abs(), strict=True)))


def rows() -> Any:
    x = normal(SAMPLES + VALIDATION, 10)
    return Data([Row(*row) for row in zip(x, x[:, :3].sum(1).sin(), labels(x, 3), strict=True)])


def equation() -> Any:
    x, t = normal(SAMPLES), normal(SAMPLES, seed=1).abs()
    return loader([{"inside": (a, b), "start": (a, a.sin())} for a, b in zip(x, t, strict=True)])


def classes(width: int) -> Any:
    x = normal(SAMPLES, width)
    return loader(tensors(x, labels(x, 3)))


def tasks() -> Any:
    x, phase = normal(SAMPLES, 10, 1), normal(SAMPLES, 1, 1, seed=1)
    y = (x + phase).sin()
    return loader(tensors(x[:, :5], y[:, :5], x[:, 5:], y[:, 5:]))


# Its inputs are spread over the batch, and its step takes derivatives.
INSIDE: dict[str, Any] = {"forward": "*batch['inside']"}
TRAININGS = [
    Training("two_towers", "dictionaries in a tuple, bags of embeddings", TwoTowers, rated),
    Training("multi_task", "named tuples, gradients gathered by hand", MultiTask, rows),
    Training("physics", "derivatives within the step", Physics, equation, reflow=INSIDE),
    Training("neural_ode", "a block that is called again and again", NeuralODE, lambda: classes(6)),
    Training("maml", "steps within the step", MAML, tasks),
    # no checkpoint holds the momentum of the optimizer within
    Training("sam", "an optimizer that is stepped by other methods", SAM, lambda: classes(10), resumes=False),
]
