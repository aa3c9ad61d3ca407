"""What an optional package that is missing is answered with can be typed as it stands."""

from importlib import metadata

import pytest
from packaging.requirements import Requirement

from reflow_lightning.running import extras


@pytest.mark.parametrize("extra", extras._EXTRAS)
def test_a_remedy_names_packages_that_registries_have(extra):
    command = extras.remedy(extra)
    assert command.startswith('pip install "')
    packages = [Requirement(quoted) for quoted in command.split('"')[1:-2:2]]
    assert packages
    assert "reflow-lightning" not in [package.name for package in packages]
    assert all(package.specifier for package in packages)
    assert command.endswith(f'(the extra "{extra}")')


def test_a_module_within_a_package_leads_to_the_extra():
    error = ModuleNotFoundError("No module named 'torchvision.datasets'", name="torchvision.datasets")
    assert extras.missing(error) == extras.remedy("vision")
    assert extras.missing(ImportError("cannot import name 'x'")) == ""


def test_without_an_installation_it_names_the_extra_alone(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(extras, "requires", missing)
    assert extras.remedy("onnx") == 'install the extra "onnx"'
    assert extras.missing(ModuleNotFoundError(name="onnx")) == ""
