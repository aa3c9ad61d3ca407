"""What is said of arguments and errors."""

from types import SimpleNamespace

import pytest

from reflow_lightning.running.describing import add_note, shown


def test_an_error_without_notes_has_the_line_in_its_message():
    error = SimpleNamespace(args=("bad",))  # as of Python 3.10
    add_note(error, "Try this.")
    assert error.args == ("bad\nTry this.",)


def test_an_error_without_a_message_stays_as_it_is():
    error = SimpleNamespace(args=(1, 2))
    add_note(error, "Try this.")
    assert error.args == (1, 2)


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
