import pytest
from scenarios.commands import application

from reflow_lightning.experiments.manual import print_help


@pytest.mark.parametrize(
    "arguments", [("--help",), ("-h", "model=vit", "sparsity=0.5"), ("search", "--help", "schedule.fraction=0.3")]
)
def test_it_is_what_hydra_prints(arguments, tmp_path):
    """Which answers itself where one of its own options is given."""
    config = "search" if "search" in arguments else "config"
    ours, of_hydra = (application(tmp_path, *arguments, *more) for more in ((), ("--config-name", config)))
    assert ours.status == of_hydra.status == 0
    assert ours.stdout == of_hydra.stdout


@pytest.mark.parametrize("arguments", [["--help", "--config-dir", "mine"], ["--help", "~nothing"], ["seed=1"], []])
def test_the_rest_is_left_to_hydra(arguments, capsys):
    assert not print_help(arguments)
    assert capsys.readouterr().out == ""
