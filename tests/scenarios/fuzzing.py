"""Random networks, and random ways to prune them."""

import re
from dataclasses import dataclass, field

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import optim
from zoo.layers import KINDS, Network

from reflow_lightning.pruning import PruneSpec, check_model
from reflow_lightning.pruning.patterns import Pattern
from reflow_lightning.pruning.select import select
from reflow_lightning.running.isolation import isolated_rng

PRECISIONS = {
    torch.float16: "16-true",
    torch.bfloat16: "bf16-true",
    torch.float32: "32-true",
    torch.float64: "64-true",
}


def by_position(name, weight):
    """A criterion of the user's own, with many ties."""
    return (weight.abs() * 4).round() + (torch.arange(weight.numel()).view(weight.shape) % 3)


@dataclass(frozen=True)
class Case:
    kinds: tuple[str, ...]
    dtype: torch.dtype
    seed: int
    values: str
    sparsities: tuple[float, ...]
    how: dict = field(default_factory=dict)

    def model(self, reverse=False):
        with isolated_rng(seed=self.seed):
            model = Network(self.kinds, reverse).to(self.dtype)
        for parameter in select(model).values():
            with torch.no_grad():
                if self.values == "equal":
                    parameter.fill_(0.5)
                elif self.values == "levels":
                    parameter.mul_(8).round_().div_(8)
                elif self.values == "half zero":
                    parameter[..., ::2] = 0
                elif self.values == "tiny":
                    parameter.mul_(1e-7)
        return model

    def fitting(self, model):
        """The arguments without layers that the pattern does not fit, and with a minimum that is feasible."""
        how = dict(self.how)
        if how["pattern"] is not None:
            m = Pattern.parse(how["pattern"]).m
            how["exclude"] = [n for n, p in select(model).items() if p.ndim < 2 or p.shape[1] % m]
            if not sum(p.numel() for n, p in select(model).items() if n not in how["exclude"]):
                how |= {"pattern": None, "exclude": ()}
        try:
            check_model(model, self.sparsities[-1], PruneSpec(**how))
        except ValueError as error:
            how["min_kept"] = float(re.search(r"use min_kept <= (\S+)", str(error))[1])
        return how


@st.composite
def cases(draw):
    prunable_kinds = [kind for kind, (_, size) in KINDS.items() if size]
    kinds = [draw(st.sampled_from(prunable_kinds)), *draw(st.lists(st.sampled_from(list(KINDS)), max_size=3))]
    pattern = draw(st.sampled_from([None, None, "1:2", "2:4"]))
    least = 0.0 if pattern is None else 0.5
    return Case(
        tuple(kinds),
        draw(st.sampled_from(list(PRECISIONS))),
        draw(st.integers(0, 2**16)),
        draw(st.sampled_from(["normal", "equal", "levels", "half zero", "tiny"])),
        tuple(sorted(draw(st.lists(st.floats(least, 0.999), min_size=1, max_size=4)))),
        {
            "pattern": pattern,
            "allocation": draw(st.sampled_from(["global", "uniform", "erk", "lamp"])),
            "criterion": draw(st.sampled_from(["magnitude", "random", by_position])),
            "min_kept": draw(st.sampled_from([0.0, 0.0, 0.001, 0.02, 0.3])),
        },
    )


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def bits(tensor):
    return tensor.detach().contiguous().view(-1).view(torch.uint8)


OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, 0.01, momentum=0.9, weight_decay=0.1),
    "nesterov": lambda p: optim.SGD(p, 0.01, momentum=0.9, nesterov=True),
    "adamw": lambda p: optim.AdamW(p, 0.01, eps=1e-3, weight_decay=0.1, amsgrad=True),
    "adagrad": lambda p: optim.Adagrad(p, 0.01, eps=1e-3),
    "rmsprop": lambda p: optim.RMSprop(p, 0.01, eps=1e-3, momentum=0.9, centered=False),
    "adamax": lambda p: optim.Adamax(p, 0.01, eps=1e-3),
}


def many(count):
    return settings(deadline=None, max_examples=count, suppress_health_check=[HealthCheck.too_slow])
