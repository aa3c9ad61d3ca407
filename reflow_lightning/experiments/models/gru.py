"""A recurrent classifier of torch's own GRU (arXiv 1406.1078), for signals and for images read row by row."""

from __future__ import annotations

from torch import Tensor, nn


class GRUClassifier(nn.Module):
    """A linear classifier on the last state of a GRU that ran over a signal, or over the rows of an image.

    Args:
        in_channels: Values a step of a signal, or channels of the images.
        num_classes: Number of classes.
        hidden_size: Length of the state.
        layers: Number of GRUs, one over the states of the other.
        image_size: Width of the images. ``None``: the inputs are signals.

    Example:
        >>> import torch
        >>> GRUClassifier(9, 2)(torch.zeros(4, 128, 9)).shape
        torch.Size([4, 2])
        >>> GRUClassifier(3, 10, image_size=32)(torch.zeros(4, 3, 32, 32)).shape
        torch.Size([4, 10])
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int = 10,
        hidden_size: int = 64,
        layers: int = 1,
        image_size: int | None = None,
    ) -> None:
        super().__init__()
        self.gru = nn.GRU(in_channels * (image_size or 1), hidden_size, layers, batch_first=True)
        self.head = nn.Linear(hidden_size, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map signals (N, steps, in_channels) or images (N, in_channels, rows, image_size) to logits (N, classes)."""
        steps = inputs if inputs.ndim == 3 else inputs.transpose(1, 2).flatten(2)
        states, _ = self.gru(steps)
        logits: Tensor = self.head(states[:, -1])
        return logits
