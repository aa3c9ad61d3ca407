"""One global pruning of 83 M weights beside torch's own, and beside a partition of all magnitudes."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import torch
from paired import by_turns
from peak import peak_bytes
from ranking import SPARSITY, resnext
from tables import Row
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from reflow_lightning import prune
from reflow_lightning.pruning import Magnitude, Scores, select
from reflow_lightning.pruning.criteria.chunks import CHUNK
from reflow_lightning.pruning.ranking import rank
from speed_cases.floors import bytes_per_second
from speed_cases.row import row

TITLE = "One global pruning of the 83 M weights of ResNeXt-101 64x4d: selected, scored, ranked, masked, applied"
TURNS = 5


def rows() -> list[Row]:
    """float32 and bfloat16."""
    model = resnext()
    dense = {name: weight.detach().clone() for name, weight in select(model).items()}
    return [line for dtype in (torch.float32, torch.bfloat16) for line in _rows(model.to(dtype), dense)]


def _rows(model: nn.Module, dense: dict[str, Tensor]) -> list[Row]:
    weights = {name: weight.detach() for name, weight in select(model).items()}
    total, size = sum(w.numel() for w in weights.values()), next(iter(weights.values())).element_size()

    def restored() -> None:
        for name, weight in weights.items():
            weight.copy_(dense[name])

    def partition() -> None:  # the threshold alone; numpy knows no bfloat16
        values = np.concatenate([np.abs(weight.float().numpy()).ravel() for weight in weights.values()])
        np.partition(values, round(SPARSITY * total))

    restored()
    extra = _extra_bytes(model) / (CHUNK * 4)
    times = by_turns({"": restored, "partition": partition, "prune": partial(prune, model, SPARSITY)}, TURNS)
    restored()
    peer = _torch_once(model)
    faster = peer / times.median("prune")
    # read for the check, twice for the threshold, once for the masks; read and written in the end; masks thrice
    floor = f"{total * (6 * size + 3) / bytes_per_second():.2f} s"
    name, ours = f"prune, {str(model.fc.weight.dtype).removeprefix('torch.')}", f"{times.median('prune'):.2f} s"
    return [
        row(
            name,
            ours,
            f"{times.median('prune') / peer:.3f}",
            f"global_unstructured, one cold call: {peer:.1f} s",
            floor,
            "<= 0.04",
            faster >= 25,
            f"{faster:.0f} times faster",
        ),
        row(
            name,
            ours,
            times.spread("prune", "partition"),
            f"numpy.partition, which gives the threshold alone: {times.median('partition'):.2f} s",
            floor,
            "<= 1",
            times.ratio("prune", "partition") <= 1,
            "" if times.ratio("prune", "partition") <= 1 else "prune also checks, masks, and writes the weights",
        ),
        _memory(name, extra),
    ]


def _memory(name: str, chunks: float) -> Row:
    note = (
        "the sample of half a million keys, or the keys near the threshold, beside one chunk and what is computed of it"
    )
    return row(
        f"{name}: peak beside the masks",
        f"{chunks:.1f} chunks of {CHUNK * 4 / 2**20:.0f} MiB",
        "",
        "",
        "",
        "<= 1 chunk",
        chunks <= 1,
        "" if chunks <= 1 else note,
    )


def _extra_bytes(model: nn.Module) -> int:
    """The most that is allocated while the weights are ranked."""
    scores = [Scores(name, weight.detach(), Magnitude()) for name, weight in select(model).items()]
    return peak_bytes(lambda: rank(scores, round((1 - SPARSITY) * sum(s.size for s in scores))))


def _torch_once(model: nn.Module) -> float:
    """Seconds of torch's own, which can be called once: it leaves masks in the model."""
    layers = [(m, "weight") for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    start = time.perf_counter()
    torch_prune.global_unstructured(layers, torch_prune.L1Unstructured, amount=SPARSITY)
    seconds = time.perf_counter() - start
    for module, name in layers:
        torch_prune.remove(module, name)
    return seconds
