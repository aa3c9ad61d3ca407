import pytest

from reflow_lightning.pruning.allocations.registry import resolve_allocation


def test_unknown_names_are_errors():
    with pytest.raises(
        ValueError, match=r"allocation='erdos' is unknown: use one of \['entropy', 'erk', 'global', 'lamp', 'uniform'\]"
    ):
        resolve_allocation("erdos")
