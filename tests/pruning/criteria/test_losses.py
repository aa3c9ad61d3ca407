"""The default loss of criteria that read gradients: a model's own, or a cross entropy where there are classes."""

import pytest
import torch
from helpers import Module, loader, trainer
from torch.nn import functional

from reflow_lightning import Reflow
from reflow_lightning.pruning.criteria.losses import label_loss

N, CLASSES = 6, 3
LOGITS = torch.randn(N, CLASSES, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(N) % CLASSES


def test_class_labels_and_shares_of_classes_get_a_cross_entropy():
    assert label_loss(LOGITS, (None, LABELS)) == functional.cross_entropy(LOGITS, LABELS)
    shares = functional.one_hot(LABELS, CLASSES) * 0.8 + 0.2 / CLASSES  # smoothed, or of mixed images
    assert label_loss(LOGITS, (None, shares)) == functional.cross_entropy(LOGITS, shares)


def test_a_sentence_has_a_class_at_each_position():
    logits, labels = torch.randn(N, 4, CLASSES), torch.zeros(N, 4, dtype=torch.long)
    assert label_loss(logits, {"x": 1, "labels": labels}) == functional.cross_entropy(logits.movedim(-1, 1), labels)


def test_a_scalar_is_a_loss_already():
    assert label_loss(torch.tensor(0.5), "anything") == 0.5


@pytest.mark.parametrize(
    ("output", "targets"),
    [
        (torch.randn(N), torch.ones(N)),  # for binary_cross_entropy_with_logits
        (torch.randn(N, 1), torch.ones(N, 1)),
        (torch.randn(N, 1), torch.ones(N, dtype=torch.long)),
        (torch.randn(N, 1, 4, 4), torch.ones(N, 1, 4, 4)),  # a mask of one class
        (LOGITS, torch.tensor([1.0, 0.0, 1.0]).expand(N, CLASSES)),  # several labels a sample
        (LOGITS, torch.rand(N, CLASSES) + 1),  # values
        (LOGITS, -functional.one_hot(LABELS, CLASSES).float()),
        (torch.randn(N, 4, CLASSES), torch.full((N, 4, CLASSES), 1 / CLASSES)),  # shares in the last dimension
    ],
)
def test_targets_of_another_loss_are_refused(output, targets):
    with pytest.raises(ValueError, match=r"cross entropy of several classes, but got .* give the criterion the loss"):
        label_loss(output, (None, targets))


class Denoises(Module):
    """Its forward pass takes more than a batch, and its step returns the loss itself."""

    def forward(self, x, noise):
        return self.net(x + noise)

    def training_step(self, batch, index):
        return functional.cross_entropy(self(batch[0], torch.zeros_like(batch[0])), batch[1])


@pytest.mark.parametrize("criterion", ["taylor", "snip", "fisher"])
def test_a_training_step_that_returns_its_loss_is_enough(criterion):
    reflow = Reflow(0.5, criterion=criterion, forward="training_step", calibration_batches=2, monitor=False)
    trainer(reflow, max_epochs=1).fit(Denoises(), loader(16))
    assert reflow.masks.sparsity == pytest.approx(0.5, abs=0.01)
