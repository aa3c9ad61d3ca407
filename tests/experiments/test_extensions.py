import sys

import pytest
from hydra.errors import InstantiationException
from omegaconf import OmegaConf

from reflow_lightning.experiments.extensions import import_extensions, load_extensions


def test_a_file_is_imported_once(tmp_path):
    path, log = tmp_path / "mine.py", tmp_path / "log"
    path.write_text(f"open({str(log)!r}, 'a').write('imported ')")
    import_extensions([str(path), str(path)])
    assert log.read_text() == "imported "


def test_a_file_that_fails_is_tried_again(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("1 / 0")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            import_extensions([str(path)])


def test_a_module_is_found_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "extension_of_a_test.py").write_text("answer = 42")
    monkeypatch.syspath_prepend(tmp_path)
    import_extensions(["extension_of_a_test"])
    assert sys.modules["extension_of_a_test"].answer == 42


def test_what_a_module_misses_itself_is_its_own_error(tmp_path, monkeypatch):
    (tmp_path / "extension_with_a_gap.py").write_text("import no_such_module_at_all")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
        import_extensions(["extension_with_a_gap"])


@pytest.mark.parametrize("name", ["nowhere/mine.py", "no_such_extension"])
def test_what_is_not_there_is_an_error_that_says_what_to_do(name):
    with pytest.raises(ValueError, match=r"there is no such (file; write its path|module; install it)"):
        import_extensions([name])


@pytest.mark.parametrize(
    "reflow",
    [
        {"criterion": "of_mine"},
        {"allocation": "of_mine"},
        {"repair": ["batchnorm", "of_mine"]},
        {"criterion": {"_target_": "reflow_lightning.pruning.PerOutput", "criterion": "of_mine"}},
    ],
    ids=str,
)
def test_an_unknown_name_hints_at_the_file_that_may_register_it(reflow):
    cfg = OmegaConf.create(
        {"extensions": [], "reflow": {"_target_": "reflow_lightning.Reflow", "sparsity": 0.9} | reflow}
    )
    with pytest.raises(ValueError, match=r"='of_mine' is unknown: use one of .*extensions=\[mine.py\] names its file"):
        load_extensions(cfg)


def test_another_wrong_argument_is_told_as_it_is():
    cfg = OmegaConf.create({"extensions": [], "reflow": {"_target_": "reflow_lightning.Reflow", "sparsity": 9}})
    with pytest.raises(InstantiationException, match=r"sparsity=9 is outside"):
        load_extensions(cfg)
