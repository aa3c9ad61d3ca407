"""Results of the benchmarks as JSON beside the scripts, and as tables in a page of docs/."""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from omegaconf import DictConfig

import reflow_lightning.experiments  # noqa: F401  (the resolvers of the configuration)

ROOT = Path(__file__).parent.parent
Row = dict[str, Any]


def configuration(*overrides: str) -> DictConfig:
    """What ``reflow-lightning`` composes from these overrides."""
    with initialize_config_module("reflow_lightning.conf", version_base="1.3"):
        return compose("config", overrides=[*overrides, "title=benchmark", "reflow.monitor=false"])


def data_folder() -> Path:
    """The folder that REFLOW_DATA names."""
    if not (folder := os.environ.get("REFLOW_DATA")):
        raise SystemExit("set REFLOW_DATA to the folder with the data sets and weights")
    return Path(folder)


def in_kept_folder(main: Callable[[Path], None]) -> None:
    """Run a benchmark that keeps what it makes in the folder of its first argument, or in one that is removed after."""
    if len(sys.argv) > 1:
        (kept := Path(sys.argv[1])).mkdir(parents=True, exist_ok=True)
        main(kept)
    else:
        with tempfile.TemporaryDirectory() as made:
            main(Path(made))


def environment() -> str:
    """Machine and versions, in words."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "lightning"))
    return f"{os.cpu_count()} CPU cores ({platform.machine()}), Python {platform.python_version()}, {packages}"


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a table; shares as percentages."""
    columns = list(rows[0])
    lines = [
        "| " + " | ".join(columns) + " |",
        "|" + "|".join("---" if i == 0 else "--:" for i in range(len(columns))) + "|",
    ]
    lines += ["| " + " | ".join(_cell(row[column]) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{100 * value:.2f}" if isinstance(value, float) else str(value)


def publish(name: str, rows: Sequence[Row], seed: int, document: str) -> None:
    """Write ``results/<name>.json`` and the table of that name in the document, between its two marks."""
    content = record(name, rows, seed)
    page = ROOT / document
    page.write_text(with_table(page.read_text(), name, content))
    print(markdown(rows))


def record(name: str, rows: Sequence[Row], seed: int) -> dict[str, Any]:
    """Write ``results/<name>.json``, and return what stands in it."""
    results = ROOT / "benchmarks" / "results" / f"{name}.json"
    results.parent.mkdir(exist_ok=True)
    content = {"environment": environment(), "date": date.today().isoformat(), "seed": seed, "rows": list(rows)}
    results.write_text(json.dumps(content, indent=1) + "\n")
    return content


def recorded(name: str) -> list[Row]:
    """The rows that stand in ``results/<name>.json``."""
    content = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    rows: list[Row] = content["rows"]
    return rows


def mean_and_spread(cell: str) -> tuple[float, float]:
    """The mean and the standard deviation of a cell such as ``"80.2 ± 0.6"``; of ``"90.06 (2)"`` there is no spread."""
    mean, _, spread = cell.partition("±")
    return float(mean.split()[0]), float(spread or 0)


def with_table(text: str, name: str, content: Mapping[str, Any]) -> str:
    """The text with the table put between ``<!-- table: name -->`` and ``<!-- end -->``."""
    return put(text, name, f"{markdown(content['rows'])}\n\n{caption(name, content)}")


def caption(name: str, content: Mapping[str, Any]) -> str:
    """Where, when and how the numbers were measured."""
    return f"{content['environment']}, seed {content['seed']}, {content['date']}: `python benchmarks/{name}.py`"


def put(text: str, mark: str, block: str) -> str:
    """The text with the block put between ``<!-- table: mark -->`` and ``<!-- end -->``."""
    begin, end = f"<!-- table: {mark} -->", "<!-- end -->"
    before, found, rest = text.partition(begin)
    if not found or end not in rest:
        raise SystemExit(f"there is no place for a table: {begin} ... {end}")
    return f"{before}{begin}\n{block}\n{rest[rest.index(end) :]}"
