import pytest
import torch

from reflow_lightning.pruning import Magnitude, Random, Scores
from reflow_lightning.pruning.criteria import resolve_criterion


def test_random_scores_depend_on_seed_and_name_alone():
    weight = torch.ones(100)
    torch.manual_seed(1)
    first = Random()("a", weight)
    torch.manual_seed(2)
    assert torch.equal(first, Random()("a", weight))
    assert not torch.equal(first, Random()("b", weight))
    assert not torch.equal(first, Random(seed=1)("a", weight))


def test_random_scores_leave_the_global_generator_alone():
    state = torch.get_rng_state()
    Random()("a", torch.ones(3))
    assert torch.equal(state, torch.get_rng_state())


def test_unknown_names_are_errors():
    with pytest.raises(ValueError, match=r"criterion='fisher' is unknown: use one of \['magnitude', 'random'\]"):
        resolve_criterion("fisher")


@pytest.mark.parametrize("scores", [torch.ones(2), torch.ones(3, dtype=torch.int64), torch.tensor([1.0, torch.nan, 0])])
def test_scores_of_a_wrong_kind_are_errors(scores):
    with pytest.raises(ValueError, match="for 'w'"):
        Scores("w", torch.ones(3), lambda name, weight: scores).tensor()


def test_what_is_pruned_is_ranked_last_whatever_its_score():
    weight = torch.tensor([3.0, 0.0, 1.0])
    for criterion in (Magnitude(), lambda name, w: -w.abs()):
        [keys] = Scores("w", weight, criterion).keys(torch.float32)
        assert keys.argmin() == 1
    [keys] = Scores("w", weight, Magnitude(), last=torch.tensor([True, False, False])).keys(torch.float32)
    assert keys.argmin() == 0
