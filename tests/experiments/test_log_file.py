"""The log file of a job."""

import logging
import warnings

import pytest
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from lightning_utilities.core import rank_zero

from reflow_lightning.callbacks import logs
from reflow_lightning.experiments.log_file import kept_in_file


@pytest.fixture
def file(tmp_path):
    handler = logging.FileHandler(tmp_path / "reflow.log")
    logging.getLogger().addHandler(handler)
    yield tmp_path / "reflow.log"
    logging.getLogger().removeHandler(handler)
    handler.close()


def test_it_holds_our_own_lines_and_all_warnings_and_the_terminal_warnings_alone(file, capsys, monkeypatch):
    shown, told = warnings.showwarning, logging.getLogger("lightning.pytorch.utilities.rank_zero")
    monkeypatch.setattr(rank_zero, "log", told)  # the twin of Lightning puts its own there, if another test imports it
    before = list(told.handlers), told.level, told.propagate
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = shown = lambda message, *_: print(f"shown: {message}")
        with kept_in_file():
            rank_zero_info("of Lightning or another")
            told.handle(told.makeRecord(told.name, logging.INFO, logs.__file__, 1, "Reflow at step 4", (), None))
            rank_zero_warn("few workers")
        assert warnings.showwarning is shown
    assert file.read_text().splitlines() == ["Reflow at step 4", "few workers"]
    assert capsys.readouterr() == ("shown: few workers\n", "")
    assert (list(told.handlers), told.level, told.propagate) == before
