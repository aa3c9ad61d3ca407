"""Jobs of a sweep that differ in their seed alone, as one row with mean and deviation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

STATES = ("dense", "pruned", "repaired", "final")
RESULTS = ("metric", *STATES, "seconds", "note", "error")
_OF_JOB = ("job", "status", "seed", *RESULTS)

Row = Mapping[str, Any]


def over_seeds(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One row for all jobs that differ in nothing but their seed.

    Args:
        rows: Jobs that are done, as `collect` gives them.

    Returns:
        Rows with the common overrides, the mean of each state, its standard deviation as ``<state>_std`` where there
        are several seeds, their number as ``seeds``, and the jobs' names as ``job``. Of jobs with the same seed, as
        of a sweep that was run twice, the last counts.

    Example:
        >>> jobs = [{"job": str(seed), "seed": seed, "sparsity": 0.9, "repaired": 0.7 + seed / 10} for seed in (0, 2)]
        >>> row, = over_seeds(jobs)
        >>> row["job"], row["seeds"], round(row["repaired"], 2), round(row["repaired_std"], 3)
        ('0, 2', 2, 0.8, 0.141)
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        same = sorted((key, _exact(row[key])) for key in row if key not in _OF_JOB)  # in any order
        groups.setdefault(tuple(same), []).append(row)
    return [_mean(list({row.get("seed"): row for row in group}.values())) for group in groups.values()]


def _exact(value: Any) -> Any:
    """The sparsity that was reached is a number, and not the same to the last digit in all networks."""
    return round(value, 4) if isinstance(value, float) else str(value)


def _mean(group: Sequence[Row]) -> dict[str, Any]:
    found = {key: value for key, value in group[0].items() if key not in ("seed", *STATES)}
    found |= {"job": ", ".join(str(row["job"]) for row in group), "seeds": len(group)}
    for state in STATES:
        values = [float(row[state]) for row in group if state in row]
        if values:
            found[state] = fmean(values)
        if len(values) > 1:
            found[f"{state}_std"] = stdev(values)
    return found
