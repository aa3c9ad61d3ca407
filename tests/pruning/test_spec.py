import dataclasses

import pytest
from omegaconf import OmegaConf
from torch import nn

from reflow_lightning import Reflow, find_sparsity, prune
from reflow_lightning.pruning import PruneSpec, check_model, make_masks

WRONG = [
    ({"min_kept": 1.0}, r"min_kept=1.0 is outside \[0, 1\)"),
    ({"min_kept": True}, r"min_kept=True is outside"),
    ({"pattern": "4:2"}, r"pattern='4:2' is not 'N:M'"),
    ({"criterion": "fischer"}, r"criterion='fischer' is unknown"),
    ({"allocation": "erdos"}, r"allocation='erdos' is unknown"),
    ({"include": 3}, r"include=3 must be a glob pattern, or several"),
    ({"exclude": ["0.*", None]}, r"exclude=\['0.\*', None\] must be a glob pattern, or several"),
    ({"include": None}, r"include=None must be a glob pattern, or several"),
]


@pytest.mark.parametrize(("field", "message"), WRONG)
def test_a_field_out_of_range_is_named_with_the_remedy_at_every_edge(field, message):
    layer = nn.Linear(4, 4)
    for use in (
        lambda: PruneSpec(**field),
        lambda: prune(layer, 0.5, **field),
        lambda: make_masks(layer, 0.5, **field),
        lambda: find_sparsity(layer, [], lambda model: 1.0, **field),
    ):
        with pytest.raises(ValueError, match=message):
            use()
    assert (layer.weight != 0).all()


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1, True, "0.5", float("nan")])
def test_a_sparsity_out_of_range_is_named(sparsity):
    for use in (
        lambda: PruneSpec().check_sparsity(sparsity),
        lambda: prune(nn.Linear(4, 4), sparsity),
        lambda: Reflow(sparsity),
        lambda: check_model(nn.Linear(4, 4), sparsity, PruneSpec()),
    ):
        with pytest.raises(
            ValueError, match=r"sparsity=.* is (outside \[0, 1\): 0.9 prunes 90 %|a text: write a number)"
        ):
            use()


def test_a_sparsity_below_the_pattern_is_named():
    with pytest.raises(
        ValueError, match=r"sparsity=0.4 is below the 0.5 that pattern='2:4' prunes: raise the sparsity"
    ):
        PruneSpec(pattern="2:4").check_sparsity(0.4)
    PruneSpec(pattern="2:4").check_sparsity(0.5)


def test_an_unknown_key_is_named_with_the_nearest():
    message = (
        r"PruneSpec has no 'criterium': use some of \['criterion', 'allocation', 'pattern', .*\]; nearest: criterion"
    )
    with pytest.raises(ValueError, match=message):
        PruneSpec.from_dict({"criterium": "random"})
    layer = nn.Linear(4, 4)
    with pytest.raises(ValueError, match=message):
        make_masks(layer, 0.5, criterium="random")
    with pytest.raises(ValueError, match=r"PruneSpec has no '3'"):
        PruneSpec.from_dict({3: "random"})
    assert (layer.weight != 0).all()


def test_a_spec_is_one_value_that_does_not_change():
    spec = PruneSpec(criterion="random", include="layer1.*")
    assert spec == PruneSpec(criterion="random", include=["layer1.*"])
    assert hash(spec) == hash(PruneSpec(criterion="random", include=("layer1.*",)))
    assert dataclasses.replace(spec, criterion="magnitude").include == ("layer1.*",)
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.min_kept = 0.5


def test_a_spec_comes_from_plain_values_such_as_yaml_has():
    given = OmegaConf.create({"criterion": "random", "include": ["0.*", "2.*"], "min_kept": 0.1})
    assert PruneSpec.from_dict(given) == PruneSpec(criterion="random", include=("0.*", "2.*"), min_kept=0.1)
