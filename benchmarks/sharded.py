"""Everything under `fully_shard` beside one process: masks and weights, what is sent, and the memory that it takes.

    python benchmarks/sharded.py [PART ...]

Parts are ``agreement-2``, ``agreement-3`` (processes), ``25M-2``, ``25M-3``, ``100M-2``, ``100M-3``, ``time-1``,
``time-2``, ``time-3`` and ``large-3``; by default all. Each process has one thread; the largest takes 8 GB of memory.
What is measured joins ``results/sharded.json``, and ``docs/several_gpus_measured.md`` and its picture are made anew.
Exits with 1 if several processes do not agree with one.
"""

from __future__ import annotations

import json
import sys
import warnings
from datetime import date
from typing import Any

import torch
from sharded_cases import agreement, resources, scaling
from tables import ROOT, environment, markdown

RESULTS = ROOT / "benchmarks" / "results" / "sharded.json"
PARTS = ("agreement-2", "agreement-3", "25M-2", "100M-2", "25M-3", "100M-3", "time-1", "time-2", "time-3", "large-3")

PAGE = """# Sharded networks, measured

**What it shows.** What `fully_shard` sends between processes and holds on each, and how far the result is from what one
process gets.

## Several processes beside one

One small network of residual blocks, with BatchNorm and LayerNorm, is pruned to 0.6 by every criterion with the global
allocation, and by magnitude with every allocation, and is repaired in every way, from six batches; process r
of R takes r, r + R, ... A cell has the largest difference of any weight or statistic from the result of one process,
relative to the largest of its tensor or to one. The masks are equal to the last bit wherever no cell says otherwise.
`"moments"`, which `"auto"` takes for layers without BatchNorm, and `"align"` depend on the order in which batches come,
with one process too: the same six in another order change weights as much as the cells say. Beside *whole* networks on
as many processes, which get the batches in the same order, sharded ones differ by less than 1e-5 with every repair
(`tests/test_sharded_repairs.py`).

{agreement}

## What is sent, and the memory that it takes

Transformers of torch's encoder layers are trained for two steps, pruned to {sparsity}, repaired, and saved in parts.
*Collectives* is what a process hands to them, with what it gets back. *Peak* is the most memory that it holds beside
what it held before the step; the last column has it over the size of *all* weights; the process itself holds
its part of them. What is freed goes back to the system at once (glibc's `M_MMAP_THRESHOLD` is 64 KiB); by default
glibc keeps some of it. A repair holds its part of the dense network, and whole what it uses at the moment: the
outermost unit, here the words and the head, and a block or two, of both networks. For least squares come sums of
products for a layer, as many as its inputs squared, in float64.

{resources}

Read again by one process, without a process group:

{elsewhere}

## Time

Seconds to rank and mask layers of 4.2 million weights each, all in bfloat16, to {sparsity}: the least of four runs, of
which the slowest process counts. This machine has two cores, so that a third process can't make it faster.

![seconds against weights, for one, two and three processes](sharded_time.png)

{time}

## A billion weights

{weights} weights in bfloat16 on three processes. A mask is a bit a weight, a sixteenth of the weight itself. The
network is written as a file for each tensor (`FileSystemWriter(..., single_file_per_rank=False)`): into one file torch
writes copies of all tensors of a process whose part is padded, and holds them until the end. A file of masks is made
and read whole by each process, so that its memory does not fall with their number.

{large}

{caption}: `python benchmarks/sharded.py`
"""

MISSING = "This was not measured yet."


def measured(part: str) -> Any:
    """The rows of a part."""
    kind, _, world = part.rpartition("-")
    if kind == "agreement":
        return agreement.rows(int(world))
    if kind == "time":
        return scaling.rows(int(world))
    if kind == "large":
        return resources.large_rows(int(world))
    return resources.rows(kind, int(world))


def rows_of(found: dict[str, Any], *kinds: str) -> list[dict[str, Any]]:
    """The rows of all parts of some kinds, as far as they were measured."""
    return [row for part in PARTS if part.startswith(kinds) for row in found.get(part, {}).get("rows", ())]


def page(found: dict[str, Any]) -> str:
    """The page of what was measured."""

    def table(*kinds: str) -> str:
        rows = rows_of(found, *kinds)
        return markdown(rows) if rows else MISSING

    told = [f"- {found[part]['elsewhere']}" for part in PARTS if "elsewhere" in found.get(part, {})]
    return PAGE.format(
        agreement=table("agreement"),
        resources=table("25M", "100M"),
        elsewhere="\n".join(told) or MISSING,
        time=table("time"),
        large=table("large"),
        weights=f"{15 * 8192**2:,}",
        sparsity=resources.SPARSITY,
        caption=found["environment"],
    )


def main(parts: list[str]) -> int:
    """Measure, compare, write."""
    if odd := set(parts).difference(PARTS):
        raise SystemExit(f"{', '.join(sorted(odd))}: parts are {', '.join(PARTS)}")
    agree = True
    for part in parts or PARTS:
        result = measured(part)
        agree &= result.get("agree", True)
        found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        found |= {part: result, "environment": f"{environment()}, {date.today()}"}
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
        (ROOT / "docs" / "several_gpus_measured.md").write_text(page(found))
        scaling.plot(rows_of(found, "time")).savefig(ROOT / "docs" / "sharded_time.png", dpi=100)
        print(part, markdown(result["rows"]), result.get("elsewhere", ""), sep="\n", flush=True)
    return 0 if agree else 1


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    sys.exit(main(sys.argv[1:]))
