import subprocess

from experiments.test_resume import configuration

from reflow_lightning.experiments.extras import git_state, print_config


def git(folder, *arguments):
    name = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    subprocess.run(["git", *name, *arguments], cwd=folder, check=True, capture_output=True)


def test_the_state_of_the_code_is_its_commit_and_whether_it_was_changed(tmp_path):
    assert git_state(tmp_path) == ""
    git(tmp_path, "init", "-q")
    (tmp_path / "a.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "a")
    clean = git_state(tmp_path)
    assert len(clean) == 40
    (tmp_path / "a.py").write_text("2")
    assert git_state(tmp_path) == f"{clean}, changed since"


def test_the_configuration_is_printed_as_a_tree(capsys):
    print_config(configuration("sparsity=0.75"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "configuration"
    assert "├── sparsity: 0.75" in [line.rstrip() for line in lines]
    assert any("lr: 0.1" in line for line in lines)
