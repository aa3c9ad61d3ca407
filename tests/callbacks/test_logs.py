"""What is said and logged of a prune event."""

import re

import pytest
from helpers import Module, loader, trainer
from lightning.pytorch.loggers import CSVLogger

from reflow_lightning import OneShot, Reflow
from reflow_lightning.callbacks import logs

ALL, SOME = {}, {"exclude": "net.9.*"}


@pytest.fixture
def said(monkeypatch):
    found = []
    monkeypatch.setattr(logs, "rank_zero_info", found.append)
    return found


def fitted(tmp_path, how):
    reflow = Reflow(0.5, schedule=OneShot(epoch=1), repair="none", monitor=False, **how)
    runner = trainer(reflow, max_epochs=2, logger=CSVLogger(tmp_path, name="", version=""))
    runner.fit(Module(), loader())
    return reflow.events[-1]


@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        (ALL, r"sparsity 0\.50\d\d over \d tensors \("),
        (SOME, r"sparsity 0\.50\d\d of the selected weights = 0\.\d{4} of all matrices; left: Linear x 1; over \d t"),
    ],
    ids=["all", "some"],
)
def test_the_line_says_what_was_left_where_not_all_was_selected(tmp_path, said, how, wanted):
    fitted(tmp_path, how)
    assert re.search(wanted, said[-1])


@pytest.mark.parametrize("how", [ALL, SOME], ids=["all", "some"])
def test_the_share_of_all_matrices_is_logged_beside_that_of_the_selected_weights(tmp_path, how):
    event = fitted(tmp_path, how)
    header, *rows = [line.split(",") for line in (tmp_path / "metrics.csv").read_text().splitlines()]
    [row] = [row for row in rows if row[header.index("sparsity/global")]]
    assert float(row[header.index("sparsity/all_matrices")]) == pytest.approx(event.coverage.share)
    assert (event.coverage.share == pytest.approx(event.sparsity)) == (how is ALL)
