import re

import pytest
from scenarios.commands import application

from reflow_lightning.experiments.manual import print_help


@pytest.mark.parametrize(
    "arguments", [("--help",), ("-h", "model=vit", "sparsity=0.5"), ("search", "--help", "schedule.fraction=0.3")]
)
def test_it_is_what_hydra_prints_with_words_about_the_keys(arguments, tmp_path):
    """Hydra answers itself where one of its own options is given."""
    config = "search" if "search" in arguments else "config"
    ours, of_hydra = (application(tmp_path, *arguments, *more) for more in ((), ("--config-name", config)))
    assert ours.status == of_hydra.status == 0
    told = {line for line in ours.stdout.splitlines() if " # " in line}
    assert len(told) > 30
    without = "".join(re.sub(" +# .*", "", line) for line in ours.stdout.splitlines(True))
    assert without == of_hydra.stdout


def test_the_words_are_those_of_the_configuration(capsys):
    assert print_help(["--help"])
    printed = capsys.readouterr().out
    assert re.search(r"^min_kept: 0.0 +# least share of all weights that each layer keeps$", printed, re.MULTILINE)
    assert re.search(r"^  every_minutes: 5 +# null for never", printed, re.MULTILINE)


@pytest.mark.parametrize("arguments", [["--help", "--config-dir", "mine"], ["--help", "~nothing"], ["seed=1"], []])
def test_the_rest_is_left_to_hydra(arguments, capsys):
    assert not print_help(arguments)
    assert capsys.readouterr().out == ""
