"""Small networks of every kind that repairs write, with batches for them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from reflow_lightning.calibration import Call
from reflow_lightning.experiments.models.fastgrnn import FastGRNN
from reflow_lightning.layers.find import find_layers
from reflow_lightning.running.hooks import watching


class Attention(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.inner, self.head = nn.MultiheadAttention(8, 2, batch_first=True, **options), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x, x, x, need_weights=False)[0].mean(1))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.cells = kind(8, 6, batch_first=True, **options)
        self.head = nn.Linear(6 * (1 + self.cells.bidirectional), 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x)[0][:, -1])


class Stepwise(nn.Module):
    """A cell that is called once a step."""

    def __init__(self, kind: type[nn.RNNCellBase]) -> None:
        super().__init__()
        self.cell, self.head = kind(8, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


class Repeated(nn.Module):
    """One layer, called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = torch.relu(self.layer(x))
        return self.head(x)


class Preactivation(nn.Module):
    """A residual network whose BatchNorm layers follow additions, not convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm1, self.conv1 = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm3, self.head = nn.BatchNorm2d(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.conv1(torch.relu(self.norm1(x)))
        x = x + self.conv2(torch.relu(self.norm2(x)))
        return self.head(torch.relu(self.norm3(x)).mean((2, 3)))


def convolutions(*between: nn.Module, **options: Any) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, **options),
        *between,
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, groups=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


def mlp(*between: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), *between, nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


ROWS, SEQUENCES, IMAGES = (8,), (4, 8), (3, 6, 6)

ZOO: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, ROWS),
    "layernorm": (lambda: mlp(nn.LayerNorm(16)), ROWS),
    "rmsnorm": (lambda: mlp(nn.RMSNorm(16)), ROWS),
    "repeated": (Repeated, ROWS),
    "batchnorm_of_rows": (lambda: mlp(nn.BatchNorm1d(16)), ROWS),
    "convolutions": (convolutions, IMAGES),
    "groupnorm": (lambda: convolutions(nn.GroupNorm(2, 8)), IMAGES),
    "batchnorm": (lambda: convolutions(nn.BatchNorm2d(8), bias=False), IMAGES),
    "transposed": (lambda: convolutions(nn.ConvTranspose2d(8, 8, 3)), IMAGES),
    "preactivation": (Preactivation, IMAGES),
    "attention": (Attention, SEQUENCES),
    "attention_of_other_sizes": (lambda: Attention(kdim=8, vdim=8, bias=False), SEQUENCES),
    "rnn": (lambda: Recurrent(nn.RNN), SEQUENCES),
    "gru": (lambda: Recurrent(nn.GRU), SEQUENCES),
    "lstm": (lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True), SEQUENCES),
    "gru_cell": (lambda: Stepwise(nn.GRUCell), SEQUENCES),
    "lstm_cell": (lambda: Stepwise(nn.LSTMCell), SEQUENCES),
    "fastgrnn": (lambda: FastGRNN(8, 3, hidden_size=6), SEQUENCES),
}
"""How a network is made, and the shape of a sample."""

FEED_FORWARD = ["mlp", "layernorm", "rmsnorm", "convolutions", "groupnorm", "batchnorm", "transposed", "preactivation"]


def make(name: str, count: int = 3, size: int = 32) -> tuple[nn.Module, nn.Module, list[Tensor]]:
    """A network with half of its weights zero, the dense one, and batches."""
    build, shape = ZOO[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dense = build().eval()
        batches = [torch.randn(size, *shape) + 0.5 for _ in range(count)]
        for module in dense.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = None
                nn.init.uniform_(module.weight, 0.5, 2.0)
                nn.init.normal_(module.bias)
        with torch.no_grad():
            dense.train()
            for batch in batches:
                dense(batch)
    return thinned(copy.deepcopy(dense.eval())), dense, batches


@torch.no_grad()
def thinned(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model with half of its weights set to zero at random."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.mul_((torch.rand(parameter.shape, generator=generator) > 0.5).to(parameter))
    return model


def zeros(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter == 0 for name, parameter in model.named_parameters() if parameter.ndim > 1}


def bits(model: nn.Module) -> dict[str, bytes]:
    """Every value, so that it compares bit for bit, NaN included."""
    return {name: value.detach().float().numpy().tobytes() for name, value in model.state_dict().items()}


def plain(model: nn.Module, batch: Any) -> Any:
    return model(batch)


def outputs(model: nn.Module, batches: Iterable[Any]) -> dict[str, Tensor]:
    """What every map of the network puts out over all batches, by name, of shape (values, channels)."""
    layers = find_layers(model).known
    found: dict[str, list[Tensor]] = {}

    def take_in(name: str, call: Call) -> None:
        for affine, y in zip(layers[name].maps, layers[name].outputs(call), strict=True):
            found.setdefault(affine.name, []).append(y.movedim(1, -1).reshape(-1, affine.channels).double())

    with torch.no_grad(), watching(model, layers, take_in):
        for batch in batches:
            model(batch)
    return {name: torch.cat(values) for name, values in found.items()}


def spread(values: Tensor) -> Tensor:
    return values.std(0, unbiased=False)
