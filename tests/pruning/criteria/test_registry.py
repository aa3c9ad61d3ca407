"""A criterion is one file outside the package: registered, and then used by name wherever a name can stand."""

from dataclasses import dataclass

import pytest
import torch
from helpers import images
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from torch import nn
from zoo.convolutional import small_net

import reflow_lightning.experiments  # noqa: F401  (what the configuration resolves)
from reflow_lightning import Reflow, find_sparsity, prune
from reflow_lightning.pruning import Estimated, Fisher, PerOutput, PruneSpec, Random, make_masks, register_criterion
from reflow_lightning.pruning.criteria.registry import CRITERIA, resolve_criterion

# -- what a user writes


@dataclass(frozen=True)
class Smallest:
    """The smallest weights stay."""

    def __call__(self, name, weight, /):
        return -weight.abs()


@dataclass(frozen=True)
class Shifted:
    """Needs data, and lets the weights that stay change."""

    def estimate(self, model, weights, batches, forward, /):
        mean = torch.stack([forward(model, batch).detach().mean() for batch in batches]).mean()
        return Found(self, {name: weight.abs() + mean for name, weight in weights.items()})


class Found(Estimated):
    def compensate(self, masks, /):
        return {name: mask.double() for name, mask in masks.items()}


@pytest.fixture(autouse=True)
def own(monkeypatch):
    monkeypatch.setattr(CRITERIA, "_found", dict(CRITERIA._found))  # as before, afterwards
    register_criterion("smallest", Smallest())
    register_criterion("shifted", Shifted())


BATCHES = list(images(32).split(16))


@pytest.mark.parametrize(("name", "criterion"), [("smallest", Smallest()), ("shifted", Shifted())])
def test_the_name_does_what_the_criterion_does(name, criterion):
    model, twin = small_net(), small_net()
    twin.load_state_dict(model.state_dict())
    masks = prune(model, 0.5, criterion=name, batches=BATCHES, max_batches=2)
    assert masks == prune(twin, 0.5, criterion=criterion, batches=BATCHES, max_batches=2)
    assert all(torch.equal(value, twin.state_dict()[key]) for key, value in model.state_dict().items())


def test_it_compensates():
    layer = nn.Linear(4, 4)
    before = layer.weight.detach().clone()
    mask = prune(layer, 0.5, criterion="shifted", batches=[torch.randn(4, 4)], max_batches=1)["weight"]
    torch.testing.assert_close(layer.weight.detach(), (before + 1) * mask)


def test_within_each_output_by_name():
    model = small_net()
    assert make_masks(model, 0.5, criterion=PerOutput("smallest")) == make_masks(
        model, 0.5, criterion=PerOutput(Smallest())
    )


def test_in_a_search_by_name():
    found = find_sparsity(
        small_net(), BATCHES, lambda model: 1.0, criterion="smallest", coarse=(0.5,), tolerance=0.4, max_batches=2
    )
    assert found.sparsity > 0.5


def test_in_the_callback_by_name():
    model = small_net()
    expected = make_masks(model, 0.5, criterion=Smallest())
    reflow = Reflow(0.5, criterion="smallest", calibration_batches=2)
    reflow.apply(model, BATCHES)
    assert reflow.masks == expected


def test_in_the_configuration_of_the_app_by_name():
    with initialize_config_module("reflow_lightning.conf", version_base="1.3"):
        config = compose("config", overrides=["title=test", "criterion=smallest", "sparsity=0.5"])
    model = small_net()
    expected = make_masks(model, 0.5, criterion=Smallest())
    reflow = instantiate(config.reflow)
    reflow.apply(model, BATCHES)
    assert reflow.masks == expected


# -- what is refused


@pytest.mark.parametrize("name", ["magnitude", "smallest"])
def test_a_name_is_given_once(name):
    before = dict(CRITERIA)
    message = rf"criterion '{name}' is registered already, as .*\(\): register yours by another name"
    with pytest.raises(ValueError, match=message):
        register_criterion(name, Random(seed=1))
    assert dict(CRITERIA) == before
    register_criterion(name, before[name])  # the same once more, as by a second import


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        (Fisher, r"criterion=Fisher is a class: give an instance of it, such as Fisher\(\)"),
        (Smallest, r"criterion=Smallest is a class: give an instance of it, such as Smallest\(\)"),
        (0.9, r"criterion=0.9 is none: give a name, a callable \(name, weight\) -> scores, or an object with estimate"),
        (None, r"criterion=None is none: give a name"),
    ],
)
def test_what_is_no_criterion_is_refused_wherever_it_is_given(criterion, message):
    before = dict(CRITERIA)
    with pytest.raises(ValueError, match=message):
        register_criterion("another", criterion)
    assert dict(CRITERIA) == before
    for use in (resolve_criterion, PerOutput, lambda c: PruneSpec(criterion=c), lambda c: Reflow(0.5, criterion=c)):
        with pytest.raises(ValueError, match=message):
            use(criterion)


@pytest.mark.parametrize("name", ["", 3, None])
def test_a_name_is_a_text(name):
    with pytest.raises(ValueError, match=r"must be a text that is not empty: the criterion is found by it"):
        register_criterion(name, Smallest())


def test_a_name_that_is_nearly_right_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"criterion='smalest' is unknown: use one of .*; nearest: smallest"):
        prune(nn.Linear(2, 2), 0.5, criterion="smalest")


# -- what the package registers itself


def test_every_criterion_of_the_package_that_needs_no_argument_has_a_name():
    names = {"fisher", "magnitude", "random", "snip", "taylor", "wanda", "woodfisher"}
    assert names | {"smallest", "shifted"} == {name for name in CRITERIA if name != "smallest_stay"}  # of an example
