import os

import pytest
import torch

from reflow_lightning.experiments.models.hub import timm_model, torchvision_model

MAKERS = pytest.mark.parametrize(("make", "name"), [(torchvision_model, "resnet18"), (timm_model, "resnet18.a1_in1k")])


@MAKERS
def test_a_network_by_name_with_any_number_of_classes(make, name):
    with torch.device("meta"):
        assert make(name).fc.out_features == 1000
        assert make(name, num_classes=7).fc.out_features == 7


def test_unknown_weights_are_answered_with_the_known():
    with pytest.raises(ValueError, match="weights='IMAGENET1K_V9' are none of 'resnet50': use one of IMAGENET1K_V1, "):
        torchvision_model("resnet50", weights="IMAGENET1K_V9")


def test_weights_for_another_number_of_classes_are_refused():
    with pytest.raises(ValueError, match="'num_classes' expected value 1000 but got 10"):
        torchvision_model("resnet50", weights="IMAGENET1K_V2", num_classes=10)


def test_unknown_networks_are_refused():
    with pytest.raises(ValueError, match="Unknown model resnet51"):
        torchvision_model("resnet51")
    with pytest.raises(RuntimeError, match="Unknown model"):
        timm_model("resnet51")


class RunsCode:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_a_file_of_weights_runs_no_code(tmp_path, monkeypatch):
    """Of what was downloaded before, torch checks no checksum, and torchvision would run what is in there."""
    from torchvision.models import ResNet18_Weights

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save({"fc.weight": RunsCode(tmp_path / "made")}, folder / ResNet18_Weights.DEFAULT.url.rpartition("/")[2])
    with pytest.raises(ValueError, match=r"weights='DEFAULT' of 'resnet18' hold more than tensors.*delete their file"):
        torchvision_model("resnet18", weights="DEFAULT")
    assert not (tmp_path / "made").exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_a_file_of_weights_that_holds_tensors_is_loaded(tmp_path, monkeypatch):
    from torchvision.models import ResNet18_Weights, resnet18

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    state = resnet18().state_dict()
    torch.save(state, folder / ResNet18_Weights.DEFAULT.url.rpartition("/")[2])
    assert torch.equal(torchvision_model("resnet18", weights="DEFAULT").fc.weight, state["fc.weight"])


def test_timm_chooses_weights_by_name():
    with pytest.raises(ValueError, match="weights='IMAGENET1K_V2' must be DEFAULT or null: in timm the name chooses"):
        timm_model("resnet18.a1_in1k", weights="IMAGENET1K_V2")
