"""Classifiers of the zoo in float64, and the gradients of single samples the plain way."""

from __future__ import annotations

import copy

import torch
import zoo
from torch.nn import functional

N = 12


def weights_of(model):
    return {name: p.detach() for name, p in model.named_parameters() if p.ndim > 1}


def forward(model, batch):
    return model(batch[0])


def make(name):
    """A classifier of the zoo, and `N` samples with their classes."""
    torch.manual_seed(0)
    entry = zoo.network(name)
    model = entry.build().double()
    with torch.no_grad():
        for buffer_name, buffer in model.named_buffers():
            if buffer_name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    [inputs] = entry.batch(N)
    return model, (inputs.double(), torch.randint(3, (N,)))


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
