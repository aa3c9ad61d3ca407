"""What is said of arguments and errors."""

import pytest

from reflow_lightning.running.describing import shown


class Ours:
    def method(self): ...


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (lambda: 0, "<lambda>"),
        (Ours().method, "Ours.method"),
        ([Ours.method, 1], "[Ours.method, 1]"),
    ],
)
def test_functions_are_called_by_their_names(value, text):
    assert shown(value) == text
