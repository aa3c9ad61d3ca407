"""Files that are no masks or checkpoints, or hold code."""

import pickle

import pytest
import torch
from helpers import Module, everything, loader, selected_size, trainer

from reflow_lightning import Masks, OneShot, Reflow

SIZE = selected_size(Module())
HALF = round(0.5 * SIZE)
PRUNED_ONCE = OneShot(step=2)


class RunsCode:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder) -> None:
        self.folder = folder

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("place", ["alone", "names", "bits"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_mask_file_runs_no_code(place, zipped, tmp_path):
    state = Masks({"weight": torch.tensor([True, False])}).state_dict()
    code = RunsCode(tmp_path / "made by the file")
    content = code if place == "alone" else state | {place: code}
    torch.save(content, tmp_path / "file", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"file is damaged, or no file of Masks\.save"):
        Masks.load(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "content", [torch.ones(3), [1, 2], "text", None, {"state_dict": {"a": torch.ones(2)}}, {"names": ["a"]}]
)
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence.*")
def test_another_kind_of_file_is_no_mask_file(content, tmp_path):
    torch.save(content, tmp_path / "file")
    with pytest.raises(ValueError, match=r"file is damaged, or no file of Masks\.save"):
        Masks.load(tmp_path / "file")
    for raw in (b"", b"hello", b"PK\x03\x04", pickle.dumps({"names": []})):
        (tmp_path / "file").write_bytes(raw)
        with pytest.raises(ValueError, match=r"file is damaged, or no file of Masks\.save"):
            Masks.load(tmp_path / "file")


def test_a_resumed_fit_runs_no_code_of_a_checkpoint(tmp_path):
    runner = trainer(Reflow(0.5, calibration_batches=2), max_epochs=1)
    runner.fit(Module(), loader())
    runner.save_checkpoint(tmp_path / "good.ckpt")
    content = torch.load(tmp_path / "good.ckpt", weights_only=True)
    content["callbacks"]["evil"] = RunsCode(tmp_path / "made by the checkpoint")
    torch.save(content, tmp_path / "evil.ckpt")
    module = Module()
    before = everything(module)["values"]
    for path, kind in (("evil.ckpt", pickle.UnpicklingError), ("good.ckpt", None)):
        run = trainer(Reflow(0.5, calibration_batches=2), max_epochs=2).fit
        if kind is None:  # without the payload the same file does load
            run(module, loader(), ckpt_path=tmp_path / path, weights_only=True)
            continue
        with pytest.raises(kind, match="Weights only load failed"):
            run(module, loader(), ckpt_path=tmp_path / path, weights_only=True)
        assert everything(module)["values"] == before
    assert not (tmp_path / "made by the checkpoint").exists()
