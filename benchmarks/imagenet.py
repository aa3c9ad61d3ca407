"""MobileNet-V1 x0.25 on a sample of ImageNet: dense, pruned, repaired.

    REFLOW_DATA=... python benchmarks/imagenet.py

Needs ``imagenet_sample/<class>/`` for all 1,000 classes and ``weights/mobilenetv1_0.25_imagenet.pth.tar`` in that
folder (https://github.com/biubug6/Pytorch_Retinaface). There are no other images, so each half of the sample is tested
with the statistics of the other half: no image has a part in its own calibration.
"""

from __future__ import annotations

import torch
from tables import Row, data_folder, publish
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from reflow_lightning import calibrate, prune
from reflow_lightning.cost.cost import measure_cost
from reflow_lightning.experiments.checkpoints import load_weights
from reflow_lightning.experiments.data.images import Preprocessing, TransformedView
from reflow_lightning.experiments.models.mobilenet import MobileNetV1

SPARSITIES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
BATCHES, BATCH_SIZE, SEED = 30, 100, 0


class Half:
    """Every other image of the sample: for a test, and endlessly for calibration under the training transform."""

    def __init__(self, images: ImageFolder, first: int) -> None:
        indices = range(first, len(images), 2)
        plain = TransformedView(images, indices, Preprocessing().evaluation())
        self.batches = list(DataLoader(plain, BATCH_SIZE))  # decoded once for all tests
        self.augmented = DataLoader(
            TransformedView(images, indices, Preprocessing().training()), BATCH_SIZE, shuffle=True
        )

    def calibration(self, count: int) -> list[Tensor]:
        """So many batches, each pass over the half augmented anew."""
        batches: list[Tensor] = []
        while len(batches) < count:
            batches += [images for images, _ in self.augmented]
        return batches[:count]


@torch.no_grad()
def correct(model: nn.Module, half: Half) -> int:
    """How many images are classified correctly."""
    model.eval()
    return sum(int((model(images).argmax(1) == classes).sum()) for images, classes in half.batches)


def dense_model() -> MobileNetV1:
    """The public network."""
    model = MobileNetV1(width=0.25)
    load_weights(model, data_folder() / "weights" / "mobilenetv1_0.25_imagenet.pth.tar")
    return model


def measure(sparsity: float, halves: list[Half], batches: list[list[Tensor]], dense: float) -> Row:
    """Prune, and test each half before and after it is repaired with the other."""
    model = dense_model()
    prune(model, sparsity)
    total = sum(len(half.batches) * BATCH_SIZE for half in halves)
    pruned = sum(correct(model, half) for half in halves) / total
    repaired = 0
    for half, others in zip(halves, reversed(batches), strict=True):
        result = calibrate(model, others, max_batches=BATCHES)
        repaired += correct(model, half)
        result.undo()
    cost = measure_cost(model, torch.zeros(1, 3, 224, 224))
    return {
        "sparsity": f"{sparsity:g}",
        "dense": dense,
        "pruned": pruned,
        "repaired": repaired / total,
        "multiply-adds left": cost.effective / cost.multiply_adds,
    }


if __name__ == "__main__":
    torch.manual_seed(SEED)
    images = ImageFolder(data_folder() / "imagenet_sample")
    halves = [Half(images, 0), Half(images, 1)]
    batches = [half.calibration(BATCHES) for half in halves]
    dense = sum(correct(dense_model(), half) for half in halves) / len(images)
    publish(
        "imagenet", [measure(sparsity, halves, batches, dense) for sparsity in SPARSITIES], SEED, "docs/published.md"
    )
