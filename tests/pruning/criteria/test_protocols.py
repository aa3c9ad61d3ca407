import copy

import pytest
import torch
from torch import nn

from reflow_lightning import prune
from reflow_lightning.pruning import Magnitude, Random, Scores
from reflow_lightning.pruning.criteria.registry import resolve_criterion


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
    with pytest.raises(ValueError, match=r"criterion='fischer' is unknown: use one of \['fisher', 'magnitude', "):
        resolve_criterion("fischer")


@pytest.mark.parametrize("scores", [torch.ones(2), torch.ones(3, dtype=torch.int64), torch.tensor([1.0, torch.nan, 0])])
def test_scores_of_a_wrong_kind_are_errors(scores):
    with pytest.raises(ValueError, match="for 'w'"):
        _ = Scores("w", torch.ones(3), lambda name, weight: scores).tensor


def test_what_is_pruned_is_ranked_last_whatever_its_score():
    weight = torch.tensor([3.0, 0.0, 1.0])
    for criterion in (Magnitude(), lambda name, w: -w.abs()):
        [keys] = Scores("w", weight, criterion).keys(torch.float32)
        assert keys.argmin() == 1
    before = torch.tensor([True, False, False])
    [keys] = Scores("w", weight, Magnitude(), pruned_before=lambda: before).keys(torch.float32)
    assert keys.argmin() == 0


def test_random_scores_do_not_depend_on_the_defaults_of_the_process():
    expected = Random()("a", torch.ones(1000))
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert torch.equal(Random()("a", torch.ones(1000)), expected)
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.device("meta"):
        assert torch.equal(Random()("a", torch.ones(1000, device="cpu")), expected)


def test_pieces_are_the_whole(monkeypatch):
    for criterion in (Magnitude(), Random()):
        weight = torch.randn(7, 5)
        pieces = torch.cat([piece.view(-1) for piece in criterion.pieces("a", weight)])
        assert torch.equal(pieces.view(7, 5), criterion("a", weight))


def test_a_function_is_asked_once_and_may_draw_at_random():
    calls = []

    def drawing(name, weight):
        calls.append(name)
        return torch.rand_like(weight)

    model = nn.Linear(30, 30)
    assert int((~prune(model, 0.5, criterion=drawing)["weight"]).sum()) == 450
    assert calls == ["weight"]
    assert int((~prune(nn.Linear(32, 32), 0.7, criterion=drawing, pattern="2:4")["weight"]).sum()) == round(0.7 * 1024)
    assert calls == ["weight"] * 2


def test_scores_in_float64_are_ranked_in_float64():
    model = nn.Linear(100, 10)
    expected = prune(copy.deepcopy(model), 0.5)
    masks = prune(model, 0.5, criterion=lambda name, weight: 1e10 + weight.double().abs())
    assert torch.equal(masks["weight"], expected["weight"])


def test_a_subclass_of_magnitude_is_asked():
    class Smallest(Magnitude):
        def __call__(self, name, weight, /):
            return -weight.abs()

    model = nn.Linear(100, 10)
    largest = prune(copy.deepcopy(model), 0.5)
    assert not (prune(model, 0.5, criterion=Smallest())["weight"] & largest["weight"]).any()
