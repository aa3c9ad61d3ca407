"""Boxes: lists of images and targets, and losses in train mode where there are answers otherwise."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.trainings.batches import SAMPLES, VALIDATION, Data, images, loader, normal, whole
from zoo.trainings.training import Training

CELLS, CLASSES = 6, 3


def body(width: int = 16) -> nn.Sequential:
    first = [nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*first, nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())


class TwoStages(nn.Module):
    """Proposes cells, and looks at the best of them more closely; in train mode also at those that hold an object."""

    def __init__(self, width: int = 16, keep: int = 5) -> None:
        super().__init__()
        self.backbone, self.keep = body(width), keep
        self.rpn = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU())
        self.objectness, self.deltas = nn.Conv2d(width, 1, 1), nn.Conv2d(width, 4, 1)
        self.box_head = nn.Sequential(nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.box_predictor = nn.Linear(32, CLASSES + 1)

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        if self.training and targets is None:
            raise ValueError("In training mode, targets should be passed")
        x = torch.stack([F.pad(i, (0, 12 - i.shape[2], 0, 12 - i.shape[1])) for i in images])
        features = self.backbone(x)
        h = self.rpn(features)
        objectness, deltas = self.objectness(h).flatten(1), self.deltas(h).flatten(2).transpose(1, 2)
        chosen = objectness.topk(self.keep).indices
        rows: list[Tensor] = []
        classes: list[Tensor] = []
        for i, best in enumerate(chosen):
            cells = best
            if targets is not None:
                cells = torch.cat([best, targets[i]["cells"]]).unique()
                wanted = torch.zeros(CELLS**2, dtype=torch.long)
                wanted[targets[i]["cells"]] = targets[i]["labels"]
                classes.append(wanted[cells])
            rows.append(features[i].flatten(1).t()[cells])
        logits = self.box_predictor(self.box_head(torch.cat(rows)))
        if not self.training:
            scores = logits.softmax(-1).split([len(r) for r in rows])
            return [{"cells": c, "scores": s} for c, s in zip(chosen, scores, strict=True)]
        present = torch.zeros_like(objectness)
        offsets = 0.0 * deltas.sum()
        for i, t in enumerate(targets):
            present[i, t["cells"]] = 1
            offsets = offsets + F.smooth_l1_loss(deltas[i, t["cells"]], t["boxes"], reduction="sum") / len(targets)
        return {
            "loss_objectness": F.binary_cross_entropy_with_logits(objectness, present),
            "loss_rpn_box_reg": offsets,
            "loss_classifier": F.cross_entropy(logits, torch.cat(classes)),
        }


class Detector(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = TwoStages()

    def forward(self, imgs: Any) -> Any:
        self.model.eval()
        return self.model(imgs)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        imgs, annotations = batch
        loss_dict = self.model(imgs, annotations)
        self.log_dict(loss_dict, batch_size=len(imgs))
        return sum(loss_dict.values())

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        imgs, targets = batch
        preds = self.model(imgs)
        hits = [torch.isin(t["cells"], p["cells"]).float().mean() for t, p in zip(targets, preds, strict=True)]
        self.log("val_recall", torch.stack(hits).mean(), batch_size=len(imgs))

    def configure_optimizers(self) -> Any:
        params = [p for p in self.model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(params, lr=0.02, momentum=0.9, weight_decay=5e-4)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)}


class Scale(nn.Module):
    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(value))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Centres(pl.LightningModule):
    """Anchor-free: one head for all levels of a pyramid, with GroupNorm, and a loss over the positive places alone."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem, self.down = body(width), nn.Conv2d(width, width, 3, 2, 1)
        self.lateral = nn.Conv2d(width, width, 1)
        self.tower = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(4, width), nn.ReLU())
        self.cls_logits, self.bbox_pred = nn.Conv2d(width, CLASSES, 3, padding=1), nn.Conv2d(width, 4, 3, padding=1)
        self.scales = nn.ModuleList(Scale() for _ in range(2))
        nn.init.constant_(self.cls_logits.bias, -2.0)

    def forward(self, images: Tensor) -> dict[str, list[Tensor]]:
        fine = self.stem(images)
        coarse = self.down(fine)
        fine = self.lateral(fine) + F.interpolate(coarse, size=fine.shape[-2:])
        out: dict[str, list[Tensor]] = {"cls": [], "box": []}
        for level, scale in zip((fine, coarse), self.scales, strict=True):
            h = self.tower(level)
            out["cls"].append(self.cls_logits(h))
            out["box"].append(F.relu(scale(self.bbox_pred(h))))
        return out

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        out = self(batch["images"])
        cells = [t["cells"] for t in batch["targets"]]
        rows = torch.arange(len(cells)).repeat_interleave(torch.tensor([len(c) for c in cells]))
        where, classes = (rows, torch.cat(cells)), torch.cat([t["labels"] for t in batch["targets"]]) - 1
        fine = out["cls"][0].flatten(2).transpose(1, 2)
        heat = torch.zeros_like(fine)
        heat[(*where, classes)] = 1.0
        p = fine.sigmoid()
        focal = F.binary_cross_entropy_with_logits(fine, heat, reduction="none") * (heat - p).abs() ** 2
        boxes = out["box"][0].flatten(2).transpose(1, 2)[where]
        far = F.l1_loss(boxes, torch.cat([t["boxes"] for t in batch["targets"]]).abs())
        return focal.sum() / max(1, len(rows)) + far + 0.1 * out["cls"][1].sigmoid().mean()

    def configure_optimizers(self) -> Any:
        decayed = [p for p in self.parameters() if p.ndim > 1]
        others = [p for p in self.parameters() if p.ndim <= 1]
        return torch.optim.AdamW([{"params": decayed, "weight_decay": 1e-2}, {"params": others, "weight_decay": 0.0}])


def annotated(count: int, sizes: bool) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """Images, of several sizes if wanted, with one to three objects each."""
    found = []
    for i, image in enumerate(images(count)):
        few = 1 + i % 3
        cells = torch.randperm(CELLS**2, generator=torch.Generator().manual_seed(i))[:few]
        target = {"boxes": normal(few, 4, seed=i), "labels": 1 + whole(CLASSES, few, seed=i), "cells": cells}
        found.append((image[:, : 12 - i % 2, : 12 - i % 3] if sizes else image, target))
    return found


def collate(samples: Any) -> Any:
    return tuple(zip(*samples, strict=True))


def collate_dict(samples: Any) -> Any:
    return {"images": torch.stack([x for x, _ in samples]), "targets": [t for _, t in samples]}


def lists() -> Any:
    return Data(annotated(SAMPLES + VALIDATION, sizes=True), collate)


TRAININGS = [
    Training("detector", "lists of images, losses in train mode, rows that the data choose", Detector, lists),
    Training(
        "centres",
        "one head on two levels, targets in a list of dictionaries",
        Centres,
        lambda: loader(annotated(SAMPLES, sizes=False), collate_dict),
        {"gradient_clip_val": 5.0},
    ),
]
