import pytest
from scenarios.commands import application

from reflow_lightning.experiments.completion import complete, completions
from reflow_lightning.experiments.registered import KINDS, registered


@pytest.mark.parametrize("prefix", ["", "reflow."])
@pytest.mark.parametrize("kind", KINDS)
def test_all_registered_names_are_offered(kind, prefix):
    line = f"reflow-lightning epochs=3 {prefix}{kind}="
    assert completions(line) == [f"{prefix}{kind}={name}" for name in registered(kind)]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("reflow-lightning criterion=ma", ["criterion=magnitude"]),
        ("python -m reflow_lightning search repair=rec", ["repair=reconstruct"]),
        ("reflow-lightning criterion=magnitude ", []),  # a new word
        ("reflow-lightning criterion", []),
        ("reflow-lightning criterion=zzz", []),
        ("reflow-lightning schedule=", []),
        ("", []),
    ],
)
def test_only_the_last_word_is_completed(line, found):
    assert completions(line) == found


@pytest.mark.parametrize("arguments", [["-sc", "install=bash"], ["criterion=x"], ["--cfg", "job"], []])
def test_anything_else_is_left_to_hydra(arguments, monkeypatch, capsys):
    monkeypatch.setenv("COMP_LINE", "reflow-lightning criterion=")
    assert not complete(arguments)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("shell", ["bash", "fish", "zsh"])
@pytest.mark.parametrize(
    ("word", "some"),
    [
        ("criterion=", {"criterion=fisher", "criterion=wanda"}),
        ("schedule=", {"schedule=gradual"}),  # by Hydra
        ("spars", {"sparsity="}),
    ],
)
def test_a_shell_is_answered(word, some, shell, tmp_path, monkeypatch):
    monkeypatch.setenv("COMP_LINE", f"reflow-lightning {word}")
    done = application(tmp_path, "-sc", f"query={shell}")
    assert done.status == 0
    assert some <= set(done.stdout.split())
