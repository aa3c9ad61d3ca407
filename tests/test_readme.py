"""The README is short, and its two commands are where `.ci/run` looks for them."""

import inspect
import re

from pages import README, ROOT

TEXT = README.read_text()


def test_it_takes_no_more_than_some_minutes_to_read():
    assert len(TEXT.split()) <= 1600


def test_there_are_two_commands_each_on_one_line():
    for mark in ("run", "test"):
        [command] = re.findall(rf"<!-- {mark} -->\n```bash\n(.*)\n```", TEXT)
        assert command.startswith("python -m pip install")


def test_the_arguments_of_the_callback_are_explained_in_a_how_to():
    from reflow_lightning import Reflow

    text = "".join(page.read_text() for page in (ROOT / "docs" / "how_to").glob("*.md"))
    for name in set(inspect.signature(Reflow.__init__).parameters) - {"self", "sparsity"}:
        assert re.search(rf"`{name}\b", text), name
