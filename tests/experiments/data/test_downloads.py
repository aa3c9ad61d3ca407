import pytest

from reflow_lightning.experiments.data.downloads import download_files


def fetch(url, folder, *names, check=lambda path: None):
    download_files("the set", {folder / "set" / name: f"{url}/{name}" for name in names}, check, "put it there")


def test_the_files_are_there_under_their_names(serve, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(f"content of {name}")
    fetch(serve(tmp_path), tmp_path / "data", "a", "b")
    assert {path.name: path.read_text() for path in (tmp_path / "data" / "set").iterdir()} == {
        "a": "content of a",
        "b": "content of b",
    }


def test_if_one_is_missing_none_is_kept(serve, tmp_path):
    (tmp_path / "a").write_text("content")
    with pytest.raises(RuntimeError, match=r"could not download the set \(HTTP Error 404.*\): put it there"):
        fetch(serve(tmp_path), tmp_path / "data", "a", "b")
    assert not list((tmp_path / "data" / "set").iterdir())


def test_if_one_is_damaged_none_is_kept(serve, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)

    def check(path):
        if path.read_text() == "b":
            raise ValueError("b is damaged")

    with pytest.raises(RuntimeError, match=r"could not download the set \(b is damaged\): put it there"):
        fetch(serve(tmp_path), tmp_path / "data", "a", "b", check=check)
    assert not list((tmp_path / "data" / "set").iterdir())
