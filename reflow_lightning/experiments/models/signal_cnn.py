"""A small convolutional network with BatchNorm for sensor signals."""

from __future__ import annotations

from torch import Tensor, nn


class SignalCNN(nn.Module):
    """Three 1-D convolutions over time, each with BatchNorm and ReLU, the mean over time, and a linear classifier.

    Args:
        input_size: Values a step.
        num_classes: Number of classes.
        width: Channels of the first convolution; the others have twice as many.

    Example:
        >>> import torch
        >>> SignalCNN(9, 2)(torch.zeros(4, 128, 9)).shape
        torch.Size([4, 2])
    """

    def __init__(self, input_size: int = 9, num_classes: int = 2, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inside, outside, stride in ((input_size, width, 1), (width, 2 * width, 2), (2 * width, 2 * width, 2)):
            layers += [nn.Conv1d(inside, outside, 5, stride, padding=2, bias=False), nn.BatchNorm1d(outside), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.linear = nn.Linear(2 * width, num_classes)

    def forward(self, signals: Tensor) -> Tensor:
        """Map signals (N, steps, input_size) to logits (N, classes)."""
        logits: Tensor = self.linear(self.features(signals.transpose(1, 2)).mean(2))
        return logits
