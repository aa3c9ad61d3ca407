import pytest

from reflow_lightning.collapse.graph.kind import FUNCTIONS, KINDS, MODULES, Kind, register, words


def test_a_family_is_found_by_each_of_its_names():
    assert KINDS["silu"] is FUNCTIONS["swish"] is MODULES["SiLU"]
    assert FUNCTIONS["swish"].called("swish", None) == MODULES["SiLU"].modules["SiLU"] == "silu"
    assert all(name in KINDS for kind in FUNCTIONS.values() for name in kind.functions.values())


def test_a_name_belongs_to_one_family():
    class Another(Kind):
        functions = words("square relu")

    with pytest.raises(ValueError, match="operator 'relu' is registered already"):
        register(Another())
    assert "square" not in KINDS
    assert "square" not in FUNCTIONS
