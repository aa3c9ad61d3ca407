"""Images: classified, segmented, distilled, mixed, with few labels."""

from __future__ import annotations

import copy
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F
import torchmetrics
from lightning.pytorch.callbacks import BaseFinetuning
from torch import Tensor, nn
from torch.utils.data import DataLoader

from zoo.trainings.batches import SAMPLES, VALIDATION, Data, dicts, images, labels, loader, tensors
from zoo.trainings.training import Training

ALL = SAMPLES + VALIDATION


def conv_bn(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = conv_bn(width, width)
        self.conv2 = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv2(self.conv1(x)))


def backbone(width: int = 12) -> nn.Sequential:
    body = [conv_bn(3, width), Block(width), conv_bn(width, 2 * width, 2), Block(2 * width)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def resnet(width: int = 12, classes: int = 4) -> nn.Sequential:
    return nn.Sequential(backbone(width), nn.Dropout(0.1), nn.Linear(2 * width, classes))


class Shuffled(Data):
    """Its order depends on the random state, as most do."""

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train, batch_size=8, shuffle=True, drop_last=True)


class Classifier(pl.LightningModule):
    def __init__(self, lr: float = 0.05) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = resnet()
        self.criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
        metrics = torchmetrics.MetricCollection({"acc": torchmetrics.Accuracy("multiclass", num_classes=4)})
        self.train_metrics, self.val_metrics = metrics.clone(prefix="train/"), metrics.clone(prefix="val/")

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def _step(self, batch: Any, metrics: Any) -> Tensor:
        x, y = batch
        logits = self(x)
        metrics(logits.softmax(-1), y)
        self.log_dict(metrics, on_step=False, on_epoch=True)
        return self.criterion(logits, y)

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        loss = self._step(batch, self.train_metrics)
        self.log("train/loss", loss, prog_bar=True)
        return {"loss": loss}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", self._step(batch, self.val_metrics))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), self.hparams.lr, momentum=0.9, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Segmenter(pl.LightningModule):
    """A U-Net that normalises within, and keeps what its steps return until the epoch ends."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.middle = conv_bn(3, 8), conv_bn(8, 16, 2), conv_bn(16, 24, 2)
        self.up2, self.up1 = nn.ConvTranspose2d(24, 16, 2, 2), nn.ConvTranspose2d(16, 8, 2, 2)
        self.merge2, self.merge1, self.head = conv_bn(32, 16), conv_bn(16, 8), nn.Conv2d(8, 1, 1)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))
        self.training_step_outputs: list[Any] = []
        self.validation_step_outputs: list[Any] = []

    def forward(self, image: Tensor) -> Tensor:
        image = (image - self.mean) / self.std
        a = self.down1(image)
        b = self.down2(a)
        c = self.up2(self.middle(b))
        d = self.up1(self.merge2(torch.cat([c, b], 1)))
        return self.head(self.merge1(torch.cat([d, a], 1)))

    def shared_step(self, batch: dict[str, Tensor], stage: str) -> dict[str, Tensor]:
        image, mask = batch["image"], batch["mask"]
        assert image.ndim == 4
        logits = self.forward(image)
        p = logits.sigmoid()
        dice = 1 - (2 * (p * mask).sum() + 1) / (p.sum() + mask.sum() + 1)
        hits = ((p > 0.5) == (mask > 0.5)).float().mean()
        return {"loss": dice + F.binary_cross_entropy_with_logits(logits, mask), "hits": hits.detach()}

    def shared_epoch_end(self, outputs: list[Any], stage: str) -> None:
        self.log(f"{stage}_hits", torch.stack([x["hits"] for x in outputs]).mean())
        outputs.clear()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        out = self.shared_step(batch, "train")
        self.training_step_outputs.append(out)
        return out

    def on_train_epoch_end(self) -> None:
        self.shared_epoch_end(self.training_step_outputs, "train")

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        out = self.shared_step(batch, "valid")
        self.validation_step_outputs.append(out)
        return out

    def on_validation_epoch_end(self) -> None:
        self.shared_epoch_end(self.validation_step_outputs, "valid")

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=2e-3)


class Unfreeze(BaseFinetuning):
    """Frozen in the first epoch, with a lower rate afterwards."""

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.feature_extractor)

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.feature_extractor, optimizer, initial_denom_lr=10)


class FineTuner(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.feature_extractor = backbone()
        self.fc = nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 4))

    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(self.fc(self.feature_extractor(x).squeeze()), dim=1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return F.nll_loss(self(x), y)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(filter(lambda p: p.requires_grad, self.parameters()), 3e-3)
        return [optimizer], [torch.optim.lr_scheduler.MultiStepLR(optimizer, [1], 0.5)]


class Distiller(pl.LightningModule):
    def __init__(self, temperature: float = 4.0, alpha: float = 0.7) -> None:
        super().__init__()
        self.student, self.teacher = resnet(8), resnet(10)
        self.teacher.eval()
        for p in self.teacher.parameters():
            p.requires_grad = False
        self.t, self.alpha = temperature, alpha

    def forward(self, x: Tensor) -> Tensor:
        return self.student(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        self.teacher.eval()
        with torch.no_grad():
            soft = (self.teacher(x) / self.t).softmax(1)
        logits = self.student(x)
        kl = F.kl_div(F.log_softmax(logits / self.t, 1), soft, reduction="batchmean") * self.t**2
        loss = self.alpha * kl + (1 - self.alpha) * F.cross_entropy(logits, y)
        self.log_dict({"kl": kl, "loss": loss})
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.student.parameters(), 1e-3)


class Mixup(pl.LightningModule):
    """Mixes whole images with numpy's random state, or pastes a part of one."""

    def __init__(self) -> None:
        super().__init__()
        self.net = resnet()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        lam, order = np.random.beta(0.4, 0.4), torch.randperm(len(x), device=x.device)
        if np.random.rand() < 0.5:
            x = lam * x + (1 - lam) * x[order]
        else:
            side = int(12 * np.sqrt(1 - lam))
            top, left = np.random.randint(0, 13 - side, 2)
            x[:, :, top : top + side, left : left + side] = x[order, :, top : top + side, left : left + side]
            lam = 1 - side**2 / 144
        logits = self(x)
        return lam * F.cross_entropy(logits, y) + (1 - lam) * F.cross_entropy(logits, y[order])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.05, momentum=0.9, nesterov=True)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2)]


class Averaged(pl.LightningModule):
    """Validates a copy whose weights are an average, made before the gradients are cleared."""

    def __init__(self, decay: float = 0.9) -> None:
        super().__init__()
        self.model, self.decay = resnet(9), decay
        self.model_ema = copy.deepcopy(self.model).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) if self.training else self.model_ema(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        with torch.no_grad():
            for ema, value in zip(self.model_ema.state_dict().values(), self.model.state_dict().values(), strict=True):
                if ema.is_floating_point():
                    ema.mul_(self.decay).add_(value, alpha=1 - self.decay)
                else:
                    ema.copy_(value)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_acc", (self.model_ema(batch[0]).argmax(1) == batch[1]).float().mean(), on_epoch=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.RMSprop(self.model.parameters(), 1e-3, momentum=0.9)


class FrozenNorms(pl.LightningModule):
    """Its BatchNorm layers stay in evaluation mode, as those of detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = resnet()
        for m in self.net.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.running_mean.uniform_(-0.1, 0.1)
                m.running_var.uniform_(0.5, 1.5)
                m.requires_grad_(False)

    def train(self, mode: bool = True) -> FrozenNorms:
        super().train(mode)
        for m in self.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], 1e-3)


class InPlace(pl.LightningModule):
    """Scales its images where they are, is in channels_last, and trains in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        excite = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(24, 6, 1), nn.SiLU(), nn.Conv2d(6, 24, 1))
        self.stem, self.excite = conv_bn(3, 24, 2), nn.Sequential(excite, nn.Sigmoid())
        depthwise = nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False)
        self.block = nn.Sequential(depthwise, nn.BatchNorm2d(24), nn.Hardswish(), nn.Conv2d(24, 48, 1))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(48, 4))

    def on_fit_start(self) -> None:
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        x = x.div_(255).sub_(0.5).contiguous(memory_format=torch.channels_last)
        x = self.stem(x)
        return self.head(self.block(x * self.excite(x)))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.05, momentum=0.9)


class SemiSupervised(pl.LightningModule):
    """Learns from confident answers to images without labels, which come from a loader of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = backbone(10), nn.Linear(20, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch["labelled"]
        (weak, strong), _ = batch["unlabelled"]
        logits = self(torch.cat([x, weak, strong + 0.1 * torch.randn_like(strong)]))
        of_x, of_weak, of_strong = logits.split([len(x), len(weak), len(strong)])
        confidence, guess = of_weak.detach().softmax(-1).max(-1)
        unsupervised = (F.cross_entropy(of_strong, guess, reduction="none") * (confidence > 0.4)).mean()
        return F.cross_entropy(of_x, y) + unsupervised

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.03, momentum=0.9, nesterov=True)


def pictures(count: int = SAMPLES) -> Any:
    x = images(count)
    return tensors(x, labels(x, 4))


def masks() -> Any:
    x = images(ALL)
    return Data(dicts(image=x, mask=(x.mean(1, keepdim=True) > 0).float()))


def two_loaders() -> Any:
    x, views = images(16), images(SAMPLES, seed=5)
    few = DataLoader(tensors(x, labels(x, 4)), 4)
    many = loader([((v, v.flip(-1)), i) for i, v in enumerate(views)])
    return pl.utilities.CombinedLoader({"labelled": few, "unlabelled": many}, "max_size_cycle")


def bytes_of_images() -> Any:
    x = images()
    return loader(tensors((x * 40 + 128).clamp(0, 255), labels(x, 4)))


FINETUNED: dict[str, Any] = {"callbacks": [Unfreeze]}
TRAININGS = [
    Training("classifier", "metrics, a random order", Classifier, lambda: Shuffled(pictures(ALL)), resumes=False),
    Training("segmentation", "batches as dictionaries, outputs kept until the epoch ends", Segmenter, masks),
    Training("fine_tuning", "layers that join the optimizer later", FineTuner, lambda: loader(pictures()), FINETUNED),
    Training("distillation", "a frozen teacher", Distiller, lambda: loader(pictures())),
    Training("mixup", "images changed in place, drawn by numpy", Mixup, lambda: loader(pictures())),
    Training("average", "an average, which is what runs in evaluation mode", Averaged, lambda: Data(pictures(ALL))),
    Training("frozen_norms", "BatchNorm that never leaves evaluation mode", FrozenNorms, lambda: loader(pictures())),
    Training("in_place", "batches scaled in place, bfloat16", InPlace, bytes_of_images, {"precision": "bf16-mixed"}),
    Training("semi_supervised", "two loaders", SemiSupervised, two_loaders),
]
