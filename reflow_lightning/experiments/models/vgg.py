"""Plain convolutions without any normalisation, after VGG (arXiv 1409.1556)."""

from __future__ import annotations

from torch import Tensor, nn


class VGG(nn.Module):
    """3x3 convolutions with bias and ReLU in three stages, the mean over the image, and a linear classifier.

    Between the stages the image is halved by max-pooling and the channels are doubled.

    Args:
        depth: Number of convolutions, at least one a stage.
        width: Channels of the first stage.
        in_channels: Channels of the images.
        num_classes: Number of classes.

    Raises:
        ValueError: If a stage would have no convolution.

    Example:
        >>> import torch
        >>> VGG(depth=6, width=8, in_channels=1)(torch.zeros(4, 1, 8, 8)).shape
        torch.Size([4, 10])
    """

    def __init__(self, depth: int = 9, width: int = 32, in_channels: int = 3, num_classes: int = 10) -> None:
        super().__init__()
        if depth < 3:
            raise ValueError(f"depth={depth} must be 3 or more: one convolution a stage")
        layers: list[nn.Module] = []
        channels, last_stage = in_channels, 0
        for stage in (3 * i // depth for i in range(depth)):
            if stage != last_stage:
                layers.append(nn.MaxPool2d(2))
            layers += [nn.Conv2d(channels, width * 2**stage, 3, padding=1), nn.ReLU()]
            channels, last_stage = width * 2**stage, stage
        self.features = nn.Sequential(*layers)
        self.linear = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, classes)."""
        logits: Tensor = self.linear(self.features(images).mean((2, 3)))
        return logits
