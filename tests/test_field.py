"""Nothing is lost of any kind of fault that was found in the field (benchmarks/field.py)."""

import pytest
from field_cases import KINDS
from field_cases.trial import lost


@pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.name) for kind in KINDS])
@pytest.mark.filterwarnings("ignore")
def test_nothing_is_lost(kind):
    assert lost(kind) == {}
