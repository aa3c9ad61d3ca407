"""Masks.save and Masks.load: whole or not at all."""

import os
import threading

import pytest
import torch

from reflow_lightning import Masks
from reflow_lightning.running.errors import ReflowError

OLD, NEW = (Masks({"weight": torch.rand(40, 50, generator=torch.Generator().manual_seed(i)) > 0.5}) for i in (0, 1))


@pytest.fixture
def path(tmp_path):
    OLD.save(tmp_path / "masks.pt")
    return tmp_path / "masks.pt"


def test_a_file_is_replaced_and_nothing_is_left_beside(path):
    NEW.save(str(path))
    assert Masks.load(str(path)) == NEW
    assert [p.name for p in path.parent.iterdir()] == ["masks.pt"]


def test_threads_that_write_the_same_file_do_not_mix(path):
    errors = []

    def write_and_read(masks):
        try:
            for _ in range(20):
                masks.save(path)
                assert Masks.load(path) in (OLD, NEW)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write_and_read, args=(masks,)) for masks in (OLD, NEW, OLD, NEW)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [p.name for p in path.parent.iterdir()] == ["masks.pt"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none/masks.pt"):
        NEW.save(tmp_path / "none" / "masks.pt")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_not_replaced_by_a_file(tmp_path):
    (tmp_path / "masks.pt").mkdir()
    with pytest.raises(IsADirectoryError, match=r"masks.pt"):
        NEW.save(tmp_path / "masks.pt")
    with pytest.raises(IsADirectoryError, match=r"masks.pt"):
        Masks.load(tmp_path / "masks.pt")
    assert [p.name for p in tmp_path.iterdir()] == ["masks.pt"]


def test_a_file_is_no_folder(path):
    with pytest.raises(NotADirectoryError, match=r"masks.pt/more.pt"):
        NEW.save(path / "more.pt")
    assert Masks.load(path) == OLD


def test_an_interrupt_while_writing_leaves_the_old_file(path, monkeypatch):
    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        NEW.save(path)
    assert Masks.load(path) == OLD
    assert [p.name for p in path.parent.iterdir()] == ["masks.pt"]


@pytest.mark.parametrize("content", [b"", b"x", b"PK\x03\x04", b"\x80\x02.", bytes(5000)], ids=repr)
def test_another_file_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"masks.pt is damaged, or no file of Masks.save"):
        Masks.load(path)


def test_another_checkpoint_is_refused(path):
    torch.save({"state_dict": {}}, path)
    with pytest.raises(ValueError, match=r"masks.pt is damaged, or no file of Masks.save"):
        Masks.load(path)


def test_no_code_in_a_file_is_run(path, tmp_path):
    class Attack:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "attacked"),))

    torch.save({**OLD.state_dict(), "names": Attack()}, path)
    with pytest.raises(ValueError, match=r"masks.pt is damaged"):
        Masks.load(path)
    assert not (tmp_path / "attacked").exists()


def test_each_changed_bit_of_a_state_is_noticed():
    for index in (0, 7, 249):
        state = OLD.state_dict()
        state["bits"][index] ^= 1
        with pytest.raises(ValueError, match=r"changed since they were saved"):
            Masks.from_state_dict(state)
    for change in ({"names": ["other"]}, {"shapes": [[50, 40]]}, {"checksum": 1}):
        with pytest.raises(ValueError, match=r"changed since they were saved"):
            Masks.from_state_dict(OLD.state_dict() | change)


# -- formats

MASKS_OF_0_1 = Masks(
    {
        "0.weight": torch.tensor([[True, False, True], [False, False, True]]),
        "2.weight": torch.tensor([False, True, True, True, False, True]),
    }
)
STATE_OF_0_1 = {
    "names": ["0.weight", "2.weight"],
    "shapes": [[2, 3], [6]],
    "bits": torch.tensor([165, 208], dtype=torch.uint8),
    "checksum": 2922906964,
}


def test_what_version_0_1_wrote_is_still_read(path):
    assert Masks.from_state_dict(STATE_OF_0_1) == MASKS_OF_0_1
    torch.save(STATE_OF_0_1, path)
    assert Masks.load(path) == MASKS_OF_0_1


def test_a_state_is_the_old_one_with_a_format_number():
    state = MASKS_OF_0_1.state_dict()
    assert state.pop("format") == 1
    assert torch.equal(state.pop("bits"), STATE_OF_0_1["bits"])
    assert state == {name: value for name, value in STATE_OF_0_1.items() if name != "bits"}


def test_a_newer_format_is_named_with_the_remedy(path):
    newer = MASKS_OF_0_1.state_dict() | {"format": 7, "names": "written otherwise"}
    message = "these are masks of format 7, but this version of reflow_lightning reads up to 1: upgrade it"
    with pytest.raises(ValueError, match=message):
        Masks.from_state_dict(newer)
    torch.save(newer, path)
    with pytest.raises(ReflowError, match=f"masks.pt: {message}"):
        Masks.load(path)


@pytest.mark.parametrize("number", [True, -1, 1.0, "1", None])
def test_what_is_no_format_number_is_no_state_of_masks(number):
    with pytest.raises(ValueError, match=f"this is no state of Masks .*format={number!r} of masks"):
        Masks.from_state_dict(MASKS_OF_0_1.state_dict() | {"format": number})
