"""Small classifiers in float64, and the gradients of single samples the plain way."""

from __future__ import annotations

import copy

import torch
from helpers import small_net
from torch import nn
from torch.nn import functional

N = 12


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.cell, self.head = kind(3, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.cell(x)[0][:, -1])


class Branching(nn.Module):
    """What it computes depends on the values, which `torch.func` can't follow."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        return self.a(x) if x.sum() > 0 else self.b(x)


def attention():
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(20, 3))


CASES = {
    "convolutions": (small_net, (1, 6, 6)),
    "gru": (lambda: Recurrent(nn.GRU), (5, 3)),
    "lstm": (lambda: Recurrent(nn.LSTM), (5, 3)),
    "attention": (attention, (5, 4)),
    "branching": (Branching, (3,)),
}


def weights_of(model):
    return {name: p.detach() for name, p in model.named_parameters() if p.ndim > 1}


def forward(model, batch):
    return model(batch[0])


def make(case):
    torch.manual_seed(0)
    build, shape = CASES[case]
    model = build().double()
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    return model, (torch.randn(N, *shape).double(), torch.randint(3, (N,)))


def gradients_of_samples(model, batch):
    """(N, *shape) by name, the plain way."""
    model = copy.deepcopy(model).eval()
    found = []
    for x, y in zip(*batch, strict=True):
        model.zero_grad()
        functional.cross_entropy(model(x[None]), y[None]).backward()
        found.append({n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()})
    return {name: torch.stack([g[name] for g in found]) for name in weights_of(model)}


def split(batch, sizes):
    return list(zip(*(tensor.split(sizes) for tensor in batch), strict=True))
