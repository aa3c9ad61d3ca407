"""Warnings that are repeated, and messages that tell what is not so."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import Tensor, nn

from field_cases.trial import Kind, Trial
from reflow_lightning import Gradual, Iterative, OneShot, Pruner, Reflow, find_sparsity, prune

QUIET = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
TYPO = {"exclude": "nothing.*"}


def _warned(act: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        act()
    return [str(warning.message) for warning in found]


LENGTH = {**QUIET, "max_epochs": 2, "limit_train_batches": 4, "limit_val_batches": 0, "enable_model_summary": False}


def _fit(**options: Any) -> None:
    trainer = pl.Trainer(callbacks=[Reflow(0.5, calibration_batches=2, monitor=False, **TYPO, **options)], **LENGTH)
    trainer.fit(BoringModel())


ACTS: dict[str, Callable[[], Any]] = {
    **{str(s): functools.partial(_fit, schedule=s) for s in (OneShot(), Gradual(every_n_steps=1), Iterative())},
    "a criterion with data": functools.partial(_fit, criterion="wanda"),
    "a pruner": lambda: Pruner(0.5, **TYPO).apply(nn.Linear(4, 4), [torch.ones(2, 4)]),
    "a search": lambda: find_sparsity(nn.Linear(9, 9), [torch.ones(2, 9)], lambda _: 1.0, max_drop=0.1, **TYPO),
}


def _repeated(act: Callable[[], Any]) -> str:
    count = sum("exclude pattern" in text for text in _warned(act))
    return "" if count == 1 else f"said {count} times"


MESSAGES: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "complex64": (lambda w: w.to(torch.complex64), "complex weights are not supported"),
    "complex128": (lambda w: w.to(torch.complex128), "complex weights are not supported"),
    "bool": (lambda w: w > 0, "has no magnitude"),
    "int8": (lambda w: w.to(torch.int8), "prune before you quantize"),
    "qint8": (lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8), "prune before you quantize"),
    "float8": (lambda w: w.to(torch.float8_e4m3fn), "torch can't calculate with"),
    "coo": (lambda w: w.to_sparse(), "a torch.sparse_coo"),
    "csr": (lambda w: w.to_sparse_csr(), "a torch.sparse_csr"),
    "meta": (lambda w: w.to("meta"), "has no values"),
    "nested": (lambda w: torch.nested.nested_tensor(list(w.split(2))), "a nested tensor"),
    "jagged": (lambda w: torch.nested.nested_tensor(list(w.split(2)), layout=torch.jagged), "a nested tensor"),
}


def _told(make: Callable[[Tensor], Tensor], true: str) -> str:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].weight = nn.Parameter(make(model[0].weight.detach()), requires_grad=False)
    try:
        texts = _warned(lambda: prune(model, 0.5))
    except ValueError as error:
        texts = [str(error)]
    return "" if any(true in text and "'0.weight'" in text for text in texts) else f"told {texts}"


def _trials(kind: Callable[..., str], of: dict[str, Any]) -> dict[str, Trial]:
    arguments = {name: given if isinstance(given, tuple) else (given,) for name, given in of.items()}
    return {name: functools.partial(kind, *given) for name, given in arguments.items()}


KINDS = [
    Kind(
        "said_once",
        "a wrong exclude pattern is told of at each pruning of a training, or a search",
        "schedules with one and many prunings, a criterion with data, a pruner, a search",
        _trials(_repeated, ACTS),
    ),
    Kind(
        "said_truly",
        "a weight of a type that can't be pruned is told a remedy that is none",
        "complex, whole and truth values, quantized, float8, sparse, nested, and on the meta device",
        _trials(_told, MESSAGES),
    ),
]
