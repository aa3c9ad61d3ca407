import sys

import pytest

from reflow_lightning.experiments.extensions import import_extensions


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
