"""Several views of an image, targets that follow, and buffers that remember."""

from __future__ import annotations

import copy
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.trainings.batches import images, labels, loader
from zoo.trainings.training import Training


def encoder(width: int = 12) -> nn.Sequential:
    first = [nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    then = [nn.Conv2d(width, 2 * width, 3, 2, 1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU(inplace=True)]
    return nn.Sequential(*first, *then, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    layers = [nn.Linear(inputs, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, outputs)]
    return nn.Sequential(*layers)


class SimCLR(pl.LightningModule):
    """``forward`` is the encoder without its projection; the learning rate warms up by steps."""

    def __init__(self, temperature: float = 0.2) -> None:
        super().__init__()
        self.t, self.encoder, self.projection = temperature, encoder(), mlp(24, 32, 16)
        self.projection.append(nn.BatchNorm1d(16, affine=False))

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, list):
            x = x[0]
        return self.encoder(x)

    def shared_step(self, batch: Any) -> Tensor:
        (img1, img2, _), _ = batch
        z = F.normalize(self.projection(torch.cat([self(img1), self(img2)])), dim=1)
        sim = z @ z.t() / self.t
        sim.fill_diagonal_(-9e15)
        n = len(img1)
        loss = F.cross_entropy(sim, torch.cat([torch.arange(n, 2 * n), torch.arange(n)]).to(self.device))
        self.log("loss", loss, sync_dist=dist.is_initialized())
        return loss

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.shared_step(batch)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
        warm = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 8))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": warm, "interval": "step", "frequency": 1}}


class Arm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.projector = encoder(10), mlp(20, 32, 16)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.encoder(x)
        return y, self.projector(y)


class BYOL(pl.LightningModule):
    """The target follows when a batch has ended, and learns nothing itself."""

    def __init__(self, tau: float = 0.9) -> None:
        super().__init__()
        self.tau, self.online_network, self.predictor = tau, Arm(), mlp(16, 32, 16)
        self.target_network = copy.deepcopy(self.online_network)
        for p in self.target_network.parameters():
            p.requires_grad = False

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        pairs = zip(self.online_network.named_parameters(), self.target_network.named_parameters(), strict=True)
        for (name, online), (_, target) in pairs:
            if "weight" in name or "bias" in name:
                target.data = self.tau * target.data + (1 - self.tau) * online.data

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.online_network(x)
        return y

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        h = self.predictor(self.online_network(a)[1])
        with torch.no_grad():
            z = self.target_network(b)[1]
        return -2 * F.cosine_similarity(h, z).mean()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        views, _ = batch
        img1, img2 = views[:2]
        loss = self.distance(img1, img2) + self.distance(img2, img1)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        both = [*self.online_network.parameters(), *self.predictor.parameters()]
        return torch.optim.Adam(both, 1e-3, weight_decay=1.5e-6)


class MoCo(pl.LightningModule):
    """``forward(q, k)``: moves the key encoder, shuffles its batch, and puts the keys into a queue."""

    def __init__(self, length: int = 32, momentum: float = 0.9) -> None:
        super().__init__()
        self.m, self.K = momentum, length
        self.encoder_q = nn.Sequential(encoder(), nn.Linear(24, 16))
        self.encoder_k = nn.Sequential(encoder(), nn.Linear(24, 16))
        for q, k in zip(self.encoder_q.parameters(), self.encoder_k.parameters(), strict=True):
            k.data.copy_(q.data)
            k.requires_grad = False
        self.register_buffer("queue", F.normalize(torch.randn(16, length), dim=0))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))

    @torch.no_grad()
    def _momentum_update_key_encoder(self) -> None:
        for q, k in zip(self.encoder_q.parameters(), self.encoder_k.parameters(), strict=True):
            k.data = k.data * self.m + q.data * (1.0 - self.m)

    def forward(self, img_q: Tensor, img_k: Tensor) -> tuple[Tensor, Tensor]:
        q = F.normalize(self.encoder_q(img_q), dim=1)
        with torch.no_grad():
            self._momentum_update_key_encoder()
            order = torch.randperm(len(img_k))
            k = F.normalize(self.encoder_k(img_k[order]), dim=1)[order.argsort()]
        pos = (q * k).sum(1, keepdim=True)
        logits = torch.cat([pos, q @ self.queue.clone().detach()], 1) / 0.2
        ptr = int(self.queue_ptr)
        self.queue[:, ptr : ptr + len(k)] = k.T
        self.queue_ptr[0] = (ptr + len(k)) % self.K
        return logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        (img_1, img_2, _), _ = batch
        output, target = self(img_q=img_1, img_k=img_2)
        return F.cross_entropy(output.float(), target.long())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.05, momentum=0.9, weight_decay=1e-4)


class Head(nn.Module):
    """The last layer has normalised weights, whose length is fixed."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp, self.last_layer = nn.Sequential(nn.Linear(20, 32), nn.GELU(), nn.Linear(32, 16)), None
        self.last_layer = nn.utils.weight_norm(nn.Linear(16, 32, bias=False))
        self.last_layer.weight_g.data.fill_(1)
        self.last_layer.weight_g.requires_grad = False

    def forward(self, x: Tensor) -> Tensor:
        return self.last_layer(F.normalize(self.mlp(x), dim=-1))


class DINO(pl.LightningModule):
    """Crops of two sizes in a list; the student sees all, the teacher the large ones; a centre moves."""

    def __init__(self) -> None:
        super().__init__()
        self.student, self.teacher = (nn.ModuleDict({"backbone": encoder(10), "head": Head()}) for _ in range(2))
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)
        self.register_buffer("center", torch.zeros(1, 32))

    def run(self, net: Any, crops: list[Tensor]) -> Tensor:
        sizes = torch.unique_consecutive(torch.tensor([c.shape[-1] for c in crops]), return_counts=True)[1].tolist()
        parts, at = [], 0
        for count in sizes:
            parts.append(net["backbone"](torch.cat(crops[at : at + count])))
            at += count
        return net["head"](torch.cat(parts))

    def forward(self, x: Any) -> Tensor:
        return self.run(self.student, x if isinstance(x, list) else [x])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        crops = batch[0]
        with torch.no_grad():
            soft = self.run(self.teacher, crops[:2])
            targets = F.softmax((soft - self.center) / 0.04, -1).chunk(2)
            self.center = self.center * 0.9 + soft.mean(0, keepdim=True) * 0.1
        answers = F.log_softmax(self(crops) / 0.1, -1).chunk(len(crops))
        pairs = [(i, j) for i in range(2) for j in range(len(crops)) if i != j]
        return torch.stack([-(targets[i] * answers[j]).sum(-1).mean() for i, j in pairs]).mean()

    def on_after_backward(self) -> None:
        if self.current_epoch < 1:
            for p in self.student["head"].last_layer.parameters():
                p.grad = None

    def on_train_batch_end(self, *args: Any) -> None:
        with torch.no_grad():
            for s, t in zip(self.student.parameters(), self.teacher.parameters(), strict=True):
                t.data.mul_(0.9).add_(0.1 * s.detach().data)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.student.parameters(), 1e-3)


def views() -> Any:
    x = images()
    y = labels(x, 4)
    return loader([((v, v.flip(-1) + 0.1, v.roll(1, -1)), c) for v, c in zip(x, y, strict=True)])


def crops() -> Any:
    x = images()
    found = [([v, v.flip(-1), v[:, :8, :8], v[:, 4:, 4:]], c) for v, c in zip(x, labels(x, 4), strict=True)]
    return loader(found)


TRAININGS = [
    Training("simclr", "views in a list, forward without the projection", SimCLR, views),
    Training("byol", "a target that follows after the batch", BYOL, views),
    Training("moco", "a key encoder and a queue that move within forward", MoCo, views),
    Training("dino", "crops of several sizes, a centre, gradients that are taken away", DINO, crops),
]
