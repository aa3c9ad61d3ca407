"""What is said of arguments and errors."""

import pytest

from reflow_lightning.running.describing import first_line, shown


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


@pytest.mark.parametrize(("error", "text"), [(OSError("no hub\nask again"), "no hub"), (OSError(), "OSError")])
def test_an_error_is_told_by_its_first_line_or_else_by_its_kind(error, text):
    assert first_line(error) == text
