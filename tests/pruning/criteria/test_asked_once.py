import torch

from reflow_lightning.pruning import Magnitude
from reflow_lightning.pruning.criteria.asked_once import AskedOnce
from reflow_lightning.pruning.criteria.protocols import is_unsigned


def test_each_weight_is_scored_once():
    asked = []
    scores = AskedOnce(lambda name, weight: asked.append(name) or weight.abs())
    for name in ("a", "b", "a"):
        assert torch.equal(scores(name, -torch.ones(2)), torch.ones(2))
    assert asked == ["a", "b"]


def test_it_says_what_the_criterion_says():
    assert is_unsigned(AskedOnce(Magnitude()))
    assert not is_unsigned(AskedOnce(lambda name, weight: weight))
    assert str(AskedOnce(Magnitude())) == str(Magnitude())
