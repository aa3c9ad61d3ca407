"""Networks whose norms and transposed convolutions `collapse` did not look into: as much goes as with torch's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from field_cases.trial import Kind
from reflow_lightning import collapse

Make = Callable[[int], nn.Module]


class Rectified(nn.BatchNorm2d):
    """Leaves the work to torch's class, and rectifies."""

    def forward(self, x: Tensor) -> Tensor:
        """See `torch.nn.Module`."""
        return super().forward(x).relu()


class Named(nn.Module):
    """Statistics by other names, no weight and no bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(channels))
        self.register_buffer("spread", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """See `torch.nn.Module`."""
        return functional.batch_norm(x, self.centre, self.spread)


class Up(nn.Module):
    """A transposed convolution that is called as a function."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(0.1 * torch.randn(channels, 32, 4, 4))

    def forward(self, x: Tensor) -> Tensor:
        """See `torch.nn.Module`."""
        return functional.conv_transpose2d(x, self.kernel, stride=2, padding=1)


_NORMS: dict[str, Make] = {
    "BatchNormAct2d of timm": timm.layers.BatchNormAct2d,
    "FrozenBatchNormAct2d of timm": timm.layers.FrozenBatchNormAct2d,
    "FrozenBatchNorm2d of torchvision": torchvision.ops.FrozenBatchNorm2d,
    "a subclass with a rectifier": Rectified,
    "other names, no weight": Named,
    "SyncBatchNorm": nn.SyncBatchNorm,
}
_UPS: dict[str, Make] = {
    "transposed": lambda c: nn.ConvTranspose2d(c, 32, 4, 2, 1, bias=False),
    "transposed, with more at the end": lambda c: nn.ConvTranspose2d(c, 32, 3, 2, 1, output_padding=1, dilation=1),
    "transposed, dilated": lambda c: nn.ConvTranspose2d(c, 32, 3, dilation=2),
    "transposed, as a function": Up,
}


def _kept(make: Make, up: Make | None) -> str:
    """How many channels stay too many of a network that lost three quarters, and whether it still does the same."""
    torch.manual_seed(0)
    layer = nn.Conv2d(32, 32, 3, padding=1, bias=False) if up is None else up(32)
    layers = [nn.Conv2d(3, 32, 3, padding=1, bias=False), make(32), nn.ReLU(), layer, make(32), nn.ReLU()]
    model, images = nn.Sequential(*layers, nn.Conv2d(32, 8, 1)).eval(), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        model[0].weight[8:] = 0
        weight = next(layer.parameters())
        (weight if up is None else weight.transpose(0, 1))[8:] = 0
        smaller = collapse(model, images)
        images = 3 * torch.randn(4, 3, 8, 8)
        if (smaller(images) - model(images)).abs().max() > 1e-5 * model(images).abs().max():
            return "another function"
    kept = sorted({parameter.numel() for parameter in smaller.parameters() if parameter.ndim == 4})
    taps = next(layer.parameters())[0, 0].numel()
    return "" if kept == sorted({8 * 27, 64 * taps, 64}) else f"weights of {kept} elements stay"


KINDS = [
    Kind(
        "norms and transposed convolutions that collapse looks through",
        "dead channels stay where a norm is called as a function, or a convolution is transposed",
        "norms of timm, torchvision and one's own in the forward pass; transposed convolutions as layers and functions",
        {name: partial(_kept, make, None) for name, make in _NORMS.items()}
        | {name: partial(_kept, nn.BatchNorm2d, up) for name, up in _UPS.items()},
    )
]
