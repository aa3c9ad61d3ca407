import pytest
from omegaconf import OmegaConf

from reflow_lightning.experiments.kept import find_finished
from reflow_lightning.experiments.results import fingerprint, write_report

A, B, C = (OmegaConf.create({"sparsity": sparsity}) for sparsity in (0.5, 0.7, 0.9))


def finish(folder, cfg):
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    (folder / "tensorboard").mkdir(exist_ok=True)
    (folder / "tensorboard" / "events").write_text(str(cfg.sparsity))
    (folder / "pruned.ckpt").write_text(str(cfg.sparsity))
    write_report(folder, {"config": fingerprint(cfg), "sparsity": cfg.sparsity})


@pytest.fixture
def sweep(tmp_path):
    finish(tmp_path / "0", A)
    finish(tmp_path / "1", B)
    return tmp_path


def test_a_finished_job_is_found_in_its_folder(sweep):
    assert find_finished(sweep / "0", A)["sparsity"] == 0.5
    assert not (sweep / "earlier").exists()


def test_a_job_that_nobody_ran_is_not_found(tmp_path):
    (tmp_path / "0").mkdir()
    assert find_finished(tmp_path / "0", A) is None


def test_what_another_job_left_is_put_aside_and_not_lost(sweep):
    assert find_finished(sweep / "0", C) is None
    assert [path.name for path in (sweep / "0").iterdir()] == [".hydra"]
    aside = sweep / "earlier" / fingerprint(A)
    assert {path.name for path in aside.iterdir()} == {"pruned.ckpt", "tensorboard", "report.json"}
    assert (aside / "tensorboard" / "events").read_text() == "0.5"


def test_results_follow_their_job_to_another_number(sweep):
    """A value was added in front of the sweep: every job now has the next number."""
    (sweep / "2").mkdir()
    assert find_finished(sweep / "0", C) is None
    finish(sweep / "0", C)
    for number, cfg in ((1, A), (2, B)):
        assert find_finished(sweep / str(number), cfg)["sparsity"] == cfg.sparsity
        assert (sweep / str(number) / "pruned.ckpt").read_text() == str(cfg.sparsity)
        assert find_finished(sweep / str(number), cfg)


def test_another_checkpoint_of_the_same_name_is_another_job(tmp_path):
    path = tmp_path / "dense.ckpt"
    path.write_bytes(b"first")
    cfg = OmegaConf.create({"ckpt": str(path)})
    before = fingerprint(cfg)
    path.write_bytes(b"second")
    assert fingerprint(cfg) != before
