"""The summary of a sweep as one page for a browser, which needs no other file."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from reflow_lightning.experiments.grouping import STATES, Row, over_seeds
from reflow_lightning.experiments.summary_plot import plot, short, varied

_LINES = 15  # of a traceback

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
  body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; color: #1f2933; }}
  h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.15rem; margin-top: 2rem; }}
  img {{ max-width: 100%; height: auto; }}
  .wide {{ overflow-x: auto; }}
  table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
  th, td {{ padding: .3rem .8rem; border-bottom: 1px solid #d9dfe5; text-align: right; white-space: nowrap; }}
  th {{ border-bottom: 2px solid #3b4a5a; }}
  th:first-child, td:first-child {{ text-align: left; }}
  .spread {{ color: #66727f; }}
  .failed {{ color: #a3293b; }}
  pre {{ background: #f4f6f8; padding: .8rem; overflow-x: auto; font-size: .85rem; }}
</style>
<h1>{title}</h1>
<p>{counts}</p>
<img alt="{metric} against sparsity" src="data:image/png;base64,{picture}">
<h2>Mean over seeds</h2>
<div class="wide">{means}</div>
<h2>Jobs</h2>
<div class="wide">{jobs}</div>
{failures}
</html>
"""


def write_page(path: Path, rows: Sequence[dict[str, Any]], folders: Sequence[Path], title: str) -> None:
    """Write the page.

    Args:
        path: The file.
        rows: Those of `collect`.
        folders: The job's folder of each row, to which it links.
        title: Heading.
    """
    done = [row for row in rows if row["status"] == "done"]
    keys = varied(rows)
    metric = next((str(row["metric"]) for row in done), "metric")
    failed = [(row, folder) for row, folder in zip(rows, folders, strict=True) if row["status"] == "failed"]
    page = _PAGE.format(
        title=escape(title),
        counts=escape(_counts(rows)),
        metric=escape(metric),
        picture=_picture(done),
        means=_means(over_seeds(done), [key for key in keys if key != "seed"]),
        jobs=_jobs(rows, [_link(folder, path.parent) for folder in folders], keys),
        failures="".join(_failure(row, folder) for row, folder in failed),
    )
    path.write_text(page)


def _counts(rows: Sequence[Row]) -> str:
    """How many jobs there are, how many failed, and what is to be known of their tests."""
    failed = sum(row["status"] == "failed" for row in rows)
    notes = Counter(str(row["note"]) for row in rows if "note" in row)
    parts = [f"{len(rows)} jobs", *([f"{failed} failed"] if failed else [])]
    return ", ".join([*parts, *(f"{count} {note}" for note, count in notes.items())])


def _picture(rows: Sequence[Row]) -> str:
    buffer = io.BytesIO()
    plot(rows).savefig(buffer)
    return base64.b64encode(buffer.getvalue()).decode()


def _means(rows: Sequence[Row], keys: Sequence[str]) -> str:
    states = [state for state in STATES if any(state in row for row in rows)]
    head = [*keys, "sparsity", *states, "seeds"]
    return _table(
        head,
        [
            [
                *(escape(short(row.get(key, ""))) for key in keys),
                short(row["sparsity"]),
                *(_with_spread(row, state) for state in states),
                str(row["seeds"]),
            ]
            for row in rows
        ],
    )


def _with_spread(row: Row, state: str) -> str:
    if state not in row:
        return ""
    spread = f' <span class="spread">± {row[f"{state}_std"]:.4f}</span>' if f"{state}_std" in row else ""
    return f"{row[state]:.4f}{spread}"


def _jobs(rows: Sequence[Row], links: Sequence[str], keys: Sequence[str]) -> str:
    states = [state for state in STATES if any(state in row for row in rows)]
    body = []
    for row, link in zip(rows, links, strict=True):
        name = f'<a href="{escape(link)}">{escape(str(row["job"]))}</a>'
        results = [f"{row[state]:.4f}" if state in row else "" for state in states]
        seconds = f"{row['seconds']:.0f}" if "seconds" in row else '<span class="failed">failed</span>'
        values = [escape(short(row.get(key, ""))) for key in (*keys, "sparsity")]
        body.append([name, *values, *results, seconds])
    return _table(["job", *keys, "sparsity", *states, "seconds"], body)


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML already."""
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>\n" for cells in body)
    return f"<table>\n<tr>{top}</tr>\n{lines}</table>"


def _failure(row: Row, folder: Path) -> str:
    """The last lines of what a failed job left."""
    file = folder / "error.txt"
    lines = file.read_text().splitlines()[-_LINES:] if file.exists() else [str(row["error"])]
    text = escape("\n".join(lines))
    return f'<h2 class="failed">Job {escape(str(row["job"]))}: {escape(str(row["error"]))}</h2>\n<pre>{text}</pre>\n'


def _link(folder: Path, start: Path) -> str:
    """From the page to a folder: relative where it is below, so that both can move together."""
    try:
        return folder.resolve().relative_to(start.resolve()).as_posix()
    except ValueError:
        return folder.resolve().as_uri()
