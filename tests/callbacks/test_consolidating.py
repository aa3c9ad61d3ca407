"""States of optimizers by the numbers of their parameters."""

import pytest

from reflow_lightning.callbacks.consolidating import _by_number

GROUPS = [{"params": ["b", "a"], "lr": 0.1}]


@pytest.mark.parametrize("state", [{}, {"state": {}}, {"state": {"a": 1}}])
def test_parameters_are_numbered_and_an_optimizer_may_have_no_state(state):
    found = _by_number({"param_groups": GROUPS, **state})
    assert found["param_groups"] == [{"params": [0, 1], "lr": 0.1}]
    assert found["state"] == ({1: 1} if state.get("state") else {})
