"""An allocation is one file outside the package: registered, and then used by name wherever a name can stand."""

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
from reflow_lightning.pruning import EntropyBudget, PruneSpec, make_masks, register_allocation, uniform
from reflow_lightning.pruning.allocations.registry import ALLOCATIONS, resolve_allocation
from reflow_lightning.pruning.ranking import rank

BATCHES = list(images(32).split(16))


# -- what a user writes


def first_come(scores, keep, floors):
    """The first tensors keep all that the others need not."""
    counts = dict(floors)
    for name, s in scores.items():
        counts[name] += min(s.most - counts[name], keep - sum(counts.values()))
    return counts


@dataclass(frozen=True)
class Loud:
    """Needs data."""

    def estimate(self, model, weights, batches, forward, /):
        assert all(forward(model, batch).isfinite().all() for batch in batches)
        return first_come


@pytest.fixture
def own(monkeypatch):
    monkeypatch.setattr(ALLOCATIONS, "_found", dict(ALLOCATIONS._found))  # as before, afterwards
    register_allocation("first_come", first_come)
    register_allocation("loud", Loud())


@pytest.mark.parametrize("name", ["first_come", "loud"])
def test_the_name_does_what_the_allocation_does(own, name):
    model = small_net()
    expected = make_masks(model, 0.5, allocation=first_come, min_kept=0.01)
    assert make_masks(model, 0.5, allocation=name, min_kept=0.01, batches=BATCHES, max_batches=2) == expected
    kept = [int(mask.sum()) for mask in expected.values()]
    assert kept[0] == 72
    assert kept[2] == int(0.01 * (72 + 576 + 24))


def test_in_a_search_in_the_callback_and_in_the_configuration_by_name(own):
    model = small_net()
    expected = make_masks(model, 0.5, allocation=first_come)
    with initialize_config_module("reflow_lightning.conf", version_base="1.3"):
        config = compose("config", overrides=["title=test", "allocation=first_come", "sparsity=0.5"])
    for reflow in (Reflow(0.5, allocation="first_come", calibration_batches=2), instantiate(config.reflow)):
        twin = small_net()
        twin.load_state_dict(model.state_dict())
        reflow.apply(twin, BATCHES)
        assert reflow.masks == expected
    found = find_sparsity(
        model, BATCHES, lambda model: 1.0, allocation="first_come", coarse=(0.5,), tolerance=0.4, max_batches=2
    )
    assert found.sparsity > 0.5


def test_one_that_has_ranked_may_give_its_cuts():
    def by_cuts(scores, keep, floors):
        counts = uniform(scores, keep, floors)
        return {name: rank([s], counts[name])[0] for name, s in scores.items()}

    model = small_net()
    assert make_masks(model, 0.7, allocation=by_cuts) == make_masks(model, 0.7, allocation="uniform")


def test_cuts_that_do_not_add_up_are_an_error_as_numbers_are():
    def too_few(scores, keep, floors):
        return {name: rank([s], 1)[0] for name, s in scores.items()}

    with pytest.raises(ValueError, match="gave 1 weights for 1 tensors: it must share out 8 over 1, in whole numbers"):
        prune(nn.Linear(4, 4), 0.5, allocation=too_few)


# -- what is refused


@pytest.mark.parametrize("name", ["uniform", "first_come"])
def test_a_name_is_given_once(own, name):
    before = dict(ALLOCATIONS)
    with pytest.raises(
        ValueError, match=rf"allocation '{name}' is registered already, as .*: register yours by another"
    ):
        register_allocation(name, Loud())
    assert dict(ALLOCATIONS) == before
    register_allocation(name, before[name])  # the same once more, as by a second import


@pytest.mark.parametrize(
    ("allocation", "message"),
    [
        (EntropyBudget, r"allocation=EntropyBudget is a class: give an instance of it, such as EntropyBudget\(\)"),
        (
            0.9,
            r"allocation=0.9 is none: give a name, a callable \(scores, keep, floors\) -> number to keep by name, or",
        ),
        (None, r"allocation=None is none: give a name"),
    ],
)
def test_what_is_no_allocation_is_refused_wherever_it_is_given(allocation, message):
    before = dict(ALLOCATIONS)
    with pytest.raises(ValueError, match=message):
        register_allocation("another", allocation)
    assert dict(ALLOCATIONS) == before
    for use in (resolve_allocation, lambda a: PruneSpec(allocation=a), lambda a: Reflow(0.5, allocation=a)):
        with pytest.raises(ValueError, match=message):
            use(allocation)


def test_unknown_names_are_errors():
    with pytest.raises(
        ValueError, match=r"allocation='erdos' is unknown: use one of \['entropy', 'erk', 'global', 'lamp', 'uniform'\]"
    ):
        resolve_allocation("erdos")


def test_the_global_ranking_is_an_allocation_like_the_others():
    model = small_net()
    layers = [w.detach().abs().flatten() for w in (model[0].weight, model[4].weight, model[9].weight)]
    threshold = torch.cat(layers).sort().values[round(0.7 * 672)]
    masks = make_masks(model, 0.7, allocation="global")
    assert masks == make_masks(model, 0.7, allocation=resolve_allocation("global"))
    assert [int(mask.sum()) for mask in masks.values()] == [int((layer >= threshold).sum()) for layer in layers]
