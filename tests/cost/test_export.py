import copy
import functools
import logging
import subprocess
import sys
import zipfile

import pytest
import torch
from torch import fx, nn

from reflow_lightning.cost import export
from reflow_lightning.cost.export import check_onnx, export_onnx, export_program, save_program
from reflow_lightning.experiments.models.resnet import ResNet

IMAGES = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
ALONE = """
import sys
sys.modules["reflow_lightning"] = None  # importing it would fail
import torch
program = torch.export.load(sys.argv[1]).module()
images = torch.load(sys.argv[2], weights_only=True)
torch.save(program(images), sys.argv[3])
"""


class TwoInputs(nn.Module):
    """Of two batches, a number, and a matrix that all samples share."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(5, 3)

    def forward(self, x, scale, y, mixing):
        return (self.first(x) * scale + self.second(y)) @ mixing


def two_inputs(number):
    return torch.randn(number, 4), 0.5, torch.randn(number, 5), torch.randn(3, 3)


class FixedBatch(nn.Module):
    def forward(self, x):
        return x.reshape(4, -1).flip(1)


def resnet():
    torch.manual_seed(0)
    model = ResNet(1, in_channels=1, width=4)
    for _ in range(3):
        model(torch.randn(32, 1, 8, 8))  # statistics other than those of a fresh network
    return model


def transformer():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True)
    return nn.Sequential(nn.Flatten(1, 2), layer, nn.Flatten(), nn.Linear(64, 10))


MODELS = {"resnet": resnet, "traced": lambda: fx.symbolic_trace(resnet()), "transformer": transformer}


def save_both(model, example, folder):
    """Save both kinds of file in a folder, of one exported program; exporting takes longest."""
    program = export_program(model, example)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "export_program", lambda *_: program)
        save_program(model, example, folder / "net.pt2")
        export_onnx(model, example, folder / "net.onnx")


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """The folder with the files of a network, which were made of one sample, once a session."""

    @functools.cache
    def folder_of(kind):
        folder = tmp_path_factory.mktemp(kind)
        save_both(MODELS[kind](), IMAGES[:1], folder)
        return folder

    return folder_of


@pytest.mark.parametrize("kind", MODELS)
def test_a_program_gives_the_same_on_any_number_of_samples(kind, files):
    model = MODELS[kind]()
    program = torch.export.load(files(kind) / "net.pt2").module()
    for number in (1, 2, 9):
        images = torch.randn(number, 1, 8, 8)
        with torch.no_grad():
            torch.testing.assert_close(program(images), model.eval()(images))


def test_a_program_runs_without_this_package(files, tmp_path):
    torch.save(IMAGES, tmp_path / "images.pt")
    paths = [files("resnet") / "net.pt2", tmp_path / "images.pt", tmp_path / "out.pt"]
    subprocess.run([sys.executable, "-c", ALONE, *map(str, paths)], check=True, cwd=tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(torch.load(tmp_path / "out.pt"), resnet().eval()(IMAGES))


def test_a_program_holds_neither_the_example_nor_where_the_code_lies(files):
    archive = zipfile.ZipFile(files("resnet") / "net.pt2")
    content = b"".join(map(archive.read, archive.namelist()))
    assert IMAGES[0].numpy().tobytes() not in content
    assert b"resnet.py" not in content
    assert resnet().conv1.weight.detach().numpy().tobytes() in content  # the search itself works


@pytest.mark.parametrize("kind", MODELS)
def test_onnx_gives_the_same_on_any_number_of_samples(kind, files):
    model, path = MODELS[kind](), files(kind) / "net.onnx"
    for number in (1, 2, 9):
        assert check_onnx(model, torch.randn(number, 1, 8, 8), path) < 1e-5
    assert b"resnet.py" not in path.read_bytes()


def test_a_file_of_another_network_is_refused(files):
    model, path = resnet(), files("resnet") / "net.onnx"
    with torch.no_grad():
        model.linear.bias += 0.01
    with pytest.raises(ValueError, match=r"more than 0\.0001: do not use it"):
        check_onnx(model, IMAGES, path)


def test_a_network_for_a_fixed_number_of_samples_keeps_it(tmp_path):
    export_onnx(FixedBatch(), IMAGES, tmp_path / "net.onnx")
    assert check_onnx(FixedBatch(), IMAGES, tmp_path / "net.onnx") == 0
    program = export_program(FixedBatch(), IMAGES).module()
    assert torch.equal(program(IMAGES), FixedBatch()(IMAGES))


@pytest.mark.parametrize("samples", [1, 2, 4])
def test_a_network_of_several_inputs_takes_them_as_a_tuple(samples, tmp_path):
    model, path = TwoInputs(), tmp_path / "net.onnx"
    save_both(model, two_inputs(samples), tmp_path)
    program = torch.export.load(tmp_path / "net.pt2").module()
    for number in (1, 2, 9):
        inputs = two_inputs(number)
        with torch.no_grad():
            torch.testing.assert_close(program(*inputs), model(*inputs))
        assert check_onnx(model, inputs, path) < 1e-5


def test_several_inputs_keep_a_fixed_number_of_samples_too(tmp_path):
    class Fixed(nn.Module):
        def forward(self, x, y):
            return x.view(4, 3) + y.flip(0)

    inputs = torch.randn(4, 3), torch.randn(4, 3)
    export_onnx(Fixed(), inputs, tmp_path / "net.onnx")
    assert check_onnx(Fixed(), inputs, tmp_path / "net.onnx") == 0
    assert torch.equal(export_program(Fixed(), inputs).module()(*inputs), Fixed()(*inputs))


def test_inputs_that_the_file_does_not_take_are_refused(tmp_path):
    class Adding(nn.Module):
        def forward(self, x, y=0):
            return x + y

    inputs = torch.randn(4, 3), torch.randn(4, 3)
    export_onnx(Adding(), inputs, tmp_path / "net.onnx")
    assert check_onnx(Adding(), inputs, tmp_path / "net.onnx") == 0
    with pytest.raises(ValueError, match="takes 2 tensors, not 1: pass what it was exported with"):
        check_onnx(Adding(), inputs[0], tmp_path / "net.onnx")


def test_a_network_that_can_not_be_exported_says_why_and_leaves_no_file(tmp_path):
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(Exception, match="data-dependent"):
        save_program(Branching(), IMAGES, tmp_path / "net.pt2")
    assert not list(tmp_path.iterdir())


def test_the_model_is_as_before_and_nothing_is_said(tmp_path, capfd, recwarn, caplog):
    model = resnet()
    model.bn1.eval()
    state, flags = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    random, level = torch.get_rng_state(), logging.getLogger("onnxscript").level
    caplog.set_level(logging.INFO)
    save_program(model, IMAGES, tmp_path / "net.pt2")
    export_onnx(model, IMAGES, tmp_path / "net.onnx")
    check_onnx(model, IMAGES, tmp_path / "net.onnx")
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
    assert not caplog.records
    assert logging.getLogger("onnxscript").level == level
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_without_the_packages_it_says_what_to_install(package, tmp_path, monkeypatch):
    def export_and_check():
        export_onnx(nn.ReLU(), IMAGES, tmp_path / "net.onnx")
        check_onnx(nn.ReLU(), IMAGES, tmp_path / "net.onnx")

    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r'pip install "onnx>=.*\(the extra "onnx"\)'):
        export_and_check()


@pytest.mark.gpu
def test_a_network_on_a_gpu_is_exported_alike(tmp_path):
    model = resnet().cuda()
    save_program(model, IMAGES, tmp_path / "net.pt2")
    export_onnx(model, IMAGES, tmp_path / "net.onnx")
    assert check_onnx(model, IMAGES, tmp_path / "net.onnx") < 1e-4
