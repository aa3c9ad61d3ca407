import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflow_lightning.pruning.allocation import least_kept, resolve_allocation
from reflow_lightning.pruning.layerwise import apportion


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=8), st.integers(0, 20), st.floats(0, 1))
def test_apportionment_is_exact_and_within_bounds(sizes, floor, share):
    sizes = {str(i): size for i, size in enumerate(sizes)}
    least = {name: min(floor, size) for name, size in sizes.items()}
    total = sum(least.values()) + round(share * (sum(sizes.values()) - sum(least.values())))
    counts = apportion(total, sizes, least, sizes)
    assert sum(counts.values()) == total
    assert all(least[name] <= counts[name] <= sizes[name] for name in sizes)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=8), st.floats(0, 1))
def test_without_floors_every_share_is_the_same_to_one_weight(sizes, share):
    sizes = {str(i): size for i, size in enumerate(sizes)}
    total = round(share * sum(sizes.values()))
    counts = apportion(total, sizes, dict.fromkeys(sizes, 0), sizes)
    exact = total / sum(sizes.values())
    assert all(abs(counts[name] - exact * size) < 1 + 1e-6 for name, size in sizes.items())


def test_minimum_threshold_keeps_small_layers_whole():
    assert least_kept(1000, {"conv": 3, "fc": 997}, min_kept=0.01, keep=100) == {"conv": 3, "fc": 10}


def test_a_floor_that_does_not_fit_names_the_largest_that_does():
    with pytest.raises(ValueError, match=r"min_kept=0.1 asks for 200 weights.*leaves only 100: use min_kept <= 0.05"):
        least_kept(1000, {"a": 500, "b": 500}, min_kept=0.1, keep=100)
    assert least_kept(1000, {"a": 500, "b": 500}, min_kept=0.05, keep=100) == {"a": 50, "b": 50}


def test_unknown_names_are_errors():
    with pytest.raises(
        ValueError, match=r"allocation='erdos' is unknown: use one of \['erk', 'global', 'lamp', 'uniform'\]"
    ):
        resolve_allocation("erdos")
