"""The least number of weights that each layer keeps, however small its scores are."""

from __future__ import annotations

from collections.abc import Mapping


def least_kept(
    total: int, most: Mapping[str, int], min_kept: float, keep: int, needed: Mapping[str, int] | None = None
) -> dict[str, int]:
    """The Minimum Threshold of each layer (arXiv 2209.14624): ``min(int(min_kept * all weights), its own weights)``.

    Args:
        total: Number of all selected weights.
        most: Number of weights that may stay, by name.
        min_kept: Fraction *of all selected weights* that each layer keeps.
        keep: Number of weights that stay in all.
        needed: Numbers of weights without which layers give NaN, by name.

    Raises:
        ValueError: If the floors alone exceed ``keep``.

    Example:
        >>> least_kept(100, {"conv": 2, "fc": 98}, min_kept=0.05, keep=10)
        {'conv': 2, 'fc': 5}
    """
    norms = needed or {}

    def floors(sigma: int) -> dict[str, int]:
        return {name: max(min(sigma, size), norms.get(name, 0)) for name, size in most.items()}

    if sum(norms.values()) > keep:
        raise ValueError(
            f"the norms of {', '.join(norms)} need {sum(norms.values())} weights, one in each row, or they would "
            f"divide by zero, but the sparsity leaves only {keep}: use a lower sparsity, or remove_weight_norm"
        )

    wanted = floors(int(min_kept * total + 1e-9))  # in floating point 0.29 * 100 is 28.999999999999996
    if sum(wanted.values()) > keep:
        feasible, beyond = 0, total
        while beyond - feasible > 1:
            middle = (feasible + beyond) // 2
            feasible, beyond = (middle, beyond) if sum(floors(middle).values()) <= keep else (feasible, middle)
        raise ValueError(
            f"min_kept={min_kept} asks for {sum(wanted.values())} weights, but the sparsity leaves only {keep}: "
            f"use min_kept <= {_rounded_down(feasible / total)} or a lower sparsity"
        )
    return wanted


def _rounded_down(share: float) -> str:
    return f"{int(share * 1e9) / 1e9:.9f}".rstrip("0").rstrip(".")
