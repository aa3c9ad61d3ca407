"""Trainings as strangers write them go on as before, but for the pruning (benchmarks/trainings.py)."""

from importlib.util import find_spec

import pytest
from trainings_trial import attempt
from zoo.trainings import TRAININGS

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("training", [pytest.param(training, id=training.name) for training in TRAININGS])
def test_nothing_is_lost(training, tmp_path):
    outcome = attempt(training, tmp_path)
    assert outcome.lost == ()
    assert outcome.repaired > 0


def test_most_need_no_argument_but_the_sparsity():
    assert sum(not training.reflow for training in TRAININGS) >= 40
    assert len({training.name for training in TRAININGS}) == len(TRAININGS)
    assert len(TRAININGS) == (50 if find_spec("pytorch_lightning") else 48)
