"""A training transform for motion signals: small rotations of the sensor, and noise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset


def random_rotations(count: int, std: float) -> Tensor:
    """Random rotation matrices (count, 3, 3) whose rotation vectors are normal with standard deviation ``std``.

    Example:
        >>> turns = random_rotations(5, 0.3)
        >>> bool(torch.allclose(turns @ turns.mT, torch.eye(3).expand(5, 3, 3), atol=1e-5))
        True
    """
    x, y, z = (std * torch.randn(count, 3)).unbind(1)
    nought = torch.zeros(count)
    skew = torch.stack([nought, -z, y, z, nought, -x, -y, x, nought], dim=1).view(count, 3, 3)
    rotations: Tensor = torch.linalg.matrix_exp(skew)
    return rotations


class JitteredSignals(Dataset[tuple[Tensor, Tensor]]):
    """Windows of three-axis sensors, each turned as a whole at random, normalised, and with noise.

    Args:
        windows: Raw signals (N, steps, channels), with the axes x, y, z of one sensor after the other.
        classes: Tensor of shape (N,).
        mean: What is subtracted, shape (steps, channels).
        std: What is divided by.
        rotation: Standard deviation of the rotation about each axis, in radians; 0 for none.
        noise: Standard deviation of the noise after normalisation; 0 for none.
    """

    def __init__(
        self, windows: Tensor, classes: Tensor, mean: Tensor, std: Tensor, rotation: float = 0.0, noise: float = 0.0
    ) -> None:
        self.windows, self.classes = windows, classes
        self.mean, self.std = mean, std
        self.rotation, self.noise = rotation, noise

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """A batch at once, as a DataLoader asks for it: much faster than one by one."""
        windows = self.windows[indices]
        if self.rotation:
            axes = windows.view(*windows.shape[:2], -1, 3)
            turns = random_rotations(len(windows), self.rotation)
            windows = torch.einsum("nij,ntsj->ntsi", turns, axes).reshape(windows.shape)
        windows = (windows - self.mean) / self.std
        if self.noise:
            windows = windows + self.noise * torch.randn_like(windows)
        return list(zip(windows, self.classes[indices], strict=True))
