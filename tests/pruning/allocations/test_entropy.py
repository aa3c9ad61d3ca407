import math
import warnings
from functools import partial

import pytest
import torch
from helpers import Module, everything, images, loader, trainer
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from zoo.convolutional import small_net

from reflow_lightning import Gradual, Masks, Reflow, find_sparsity, measure_signal, prune
from reflow_lightning.pruning import DataAllocation, EntropyBudget, EntropyShares, Magnitude, Scores, make_masks
from reflow_lightning.pruning.allocations.entropy import redistributed
from reflow_lightning.pruning.allocations.registry import ALLOCATIONS

BATCHES = list(images(64).split(16))


def shares_plainly(budget, relevance, room):
    """The formula, layer by layer: real numbers, what is full gives all."""
    active, given = dict(relevance), {}
    while active:
        total = sum(active.values())
        ratio = {name: total / value for name, value in active.items()}
        top = max(ratio.values())
        weights = {name: math.exp(r - top) for name, r in ratio.items()}
        asked = {name: budget * w / sum(weights.values()) for name, w in weights.items()}
        over = [name for name in active if asked[name] > room[name]]
        if not over:
            return given | asked
        for name in over:
            given[name] = float(room[name])
            budget -= room[name]
            del active[name]
    return given


@st.composite
def layers(draw):
    names = "abcdef"[: draw(st.integers(1, 6))]
    relevance = {name: draw(st.floats(0.01, 10)) for name in names}
    room = {name: draw(st.integers(1, 200)) for name in names}
    return draw(st.integers(0, sum(room.values()))), relevance, room


@given(layers())
@settings(deadline=None)
def test_shares_are_those_of_the_formula_in_whole_numbers(case):
    budget, relevance, room = case
    found = redistributed(budget, relevance, room)
    expected = shares_plainly(budget, relevance, room)
    assert sum(found.values()) == budget
    for name in relevance:
        assert 0 <= found[name] <= room[name]
        assert abs(found[name] - expected[name]) < 1 + 1e-6


def test_more_than_all_have_takes_all():
    assert redistributed(100, {"a": 1.0, "b": 2.0}, {"a": 3, "b": 4}) == {"a": 3, "b": 4}
    assert redistributed(100, {}, {}) == {}


@pytest.mark.parametrize("tiny", [1e-320, 1e-200, 0.0])
def test_a_relevance_of_nearly_nothing_goes_first_and_is_no_error(tiny):
    assert redistributed(10, {"a": 5.0, "b": tiny}, {"a": 20, "b": 20}) == {"a": 0, "b": 10}
    assert redistributed(10, {"a": tiny, "b": tiny}, {"a": 20, "b": 20}) == {"a": 5, "b": 5}


def scores_of(weights, pruned=None):
    before = {name: None if pruned is None else partial(pruned.get, name) for name in weights}
    return {name: Scores(name, w, Magnitude(), before[name]) for name, w in weights.items()}


@st.composite
def networks(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=5))
    weights = {f"{i}.weight": torch.randn(size, generator=generator) for i, size in enumerate(sizes)}
    for weight in weights.values():
        weight[torch.rand(len(weight), generator=generator) < 0.3] = 0
    entropies = {name: draw(st.sampled_from([0.0, 0.3, 1.0])) for name in weights if draw(st.booleans())}
    nonzero = {name: int((w != 0).sum()) for name, w in weights.items()}
    floors = {name: draw(st.integers(0, n)) for name, n in nonzero.items()}
    keep = draw(st.integers(sum(floors.values()), sum(sizes)))
    return weights, entropies, nonzero, floors, keep


@given(networks())
@settings(deadline=None)
def test_totals_are_exact_floors_hold_and_nothing_grows_back(case):
    weights, entropies, nonzero, floors, keep = case
    counts = EntropyShares("test", entropies)(scores_of(weights), keep, floors)
    assert sum(counts.values()) == keep
    for name, weight in weights.items():
        assert floors[name] <= counts[name] <= len(weight)
    if keep <= sum(nonzero.values()):
        assert all(counts[name] <= n for name, n in nonzero.items())
    switching = {n for n in weights if entropies.get(n, 0) > 0}
    if any(counts[name] > floors[name] for name in switching):  # they could give more
        assert all(counts[name] >= nonzero[name] for name in weights if name not in switching)


def test_the_irrelevant_layer_is_emptied_first():
    weights = {"0.weight": torch.full((100,), 1.0), "1.weight": torch.full((100,), 0.1)}
    scores, floors = scores_of(weights), {"0.weight": 0, "1.weight": 10}
    shares = EntropyShares("test", {"0.weight": 0.5, "1.weight": 0.5})
    assert shares(scores, 150, floors) == {"0.weight": 100, "1.weight": 50}
    assert shares(scores, 80, floors) == {"0.weight": 70, "1.weight": 10}


def test_relevance_is_the_entropy_times_the_mean_of_the_weights_that_are_left():
    left = torch.tensor([2.0, 4.0, 0.0, 0.0]).repeat(25)
    weights = {"0.weight": left, "1.weight": torch.full((100,), 1.5)}
    floors = dict.fromkeys(weights, 0)
    counts = EntropyShares("test", {"0.weight": 0.5, "1.weight": 1.0})(scores_of(weights), 120, floors)
    assert counts == {"0.weight": 35, "1.weight": 85}  # equal relevance: they share the 30 evenly


def test_other_layers_give_what_the_switching_ones_lack_in_proportion_to_what_they_have():
    weights = {f"{i}.weight": torch.ones(size) for i, size in enumerate((10, 100, 200))}
    weights["2.weight"][100:] = 0
    floors = dict.fromkeys(weights, 0)
    shares = EntropyShares("test", {"0.weight": 1.0, "1.weight": 0.0})
    assert shares(scores_of(weights), 205, floors) == {"0.weight": 5, "1.weight": 100, "2.weight": 100}
    assert shares(scores_of(weights), 100, floors) == {"0.weight": 0, "1.weight": 50, "2.weight": 50}


def test_masks_say_what_was_pruned_before_if_there_are_any():
    weights = {"0.weight": torch.zeros(10), "1.weight": torch.ones(10)}
    pruned = {name: torch.arange(10) < 2 for name in weights}
    counts = EntropyShares("test", {"1.weight": 1.0})(scores_of(weights, pruned), 12, dict.fromkeys(weights, 0))
    assert counts == {"0.weight": 8, "1.weight": 4}


def test_entropies_are_those_of_the_rectifier_after_each_layer():
    model = small_net()
    weights = {name: p for name, p in model.named_parameters() if p.ndim > 1}
    for saturated, field in ((True, "entropy"), (False, "switching_entropy")):
        found = EntropyBudget(saturated=saturated).estimate(model, weights, BATCHES, nn.Module.__call__)
        rows = measure_signal(model, BATCHES, max_batches=4).rectifiers
        assert found.entropies == {f"{row.layer}.weight": getattr(row, field) for row in rows}
        assert set(found.entropies) == {"0.weight", "4.weight"}  # the last layer has no rectifier


def test_layers_whose_channels_are_concatenated_have_entropies_of_their_own():
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.norm, self.fc = (
                nn.Conv2d(1, 3, 1),
                nn.Conv2d(1, 5, 1),
                nn.BatchNorm2d(8),
                nn.Linear(8, 2),
            )

        def forward(self, x):
            return self.fc(torch.relu(self.norm(torch.cat([self.a(x), self.b(x)], 1))).mean((2, 3)))

    model = Joined()
    nn.init.constant_(model.b.bias, 100.0)
    weights = {name: p for name, p in model.named_parameters() if p.ndim > 1}
    found = EntropyBudget().estimate(model, weights, BATCHES, nn.Module.__call__).entropies
    assert found == {"a.weight": found["a.weight"], "b.weight": 0}  # the second never switches
    assert found["a.weight"] > 0


@pytest.mark.parametrize("sparsity", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("how", [{}, {"min_kept": 0.02}, {"criterion": "random"}, {"pattern": "2:4"}])
def test_pruning_by_entropy_is_exact_and_a_function_of_the_data(sparsity, how):
    if "pattern" in how and sparsity < 0.5:
        return
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 20), nn.ReLU(), nn.Linear(20, 16), nn.ReLU6(), nn.Linear(16, 4))
    total = sum(p.numel() for p in model.parameters() if p.ndim > 1)
    again = make_masks(model, sparsity, allocation="entropy", batches=BATCHES, max_batches=4, **how)
    masks = prune(model, sparsity, allocation="entropy", batches=BATCHES, max_batches=4, **how)
    assert sum(int((~mask).sum()) for mask in masks.values()) == round(sparsity * total)
    assert masks == again
    if "min_kept" in how:
        assert all(int(mask.sum()) >= int(0.02 * total) for mask in masks.values())


def test_rounds_of_pruning_let_nothing_grow_back():
    model, masks = small_net(), None
    for sparsity in (0.2, 0.5, 0.8):
        found = make_masks(model, sparsity, allocation="entropy", batches=BATCHES, max_batches=4, previous=masks)
        assert masks is None or all(bool((masks[name] | ~found[name]).all()) for name in found)
        masks = Masks(found)
        masks.apply(model)


def test_nothing_but_weights_is_changed():
    model = small_net().train()
    before = everything(model)
    make_masks(model, 0.5, allocation="entropy", batches=BATCHES, max_batches=4)
    assert everything(model) == before


def test_it_needs_batches_and_a_rectifier():
    with pytest.raises(ValueError, match=r"allocation EntropyBudget\(.*\) needs data, but batches=None: pass batches="):
        prune(small_net(), 0.5, allocation="entropy")
    with pytest.raises(ValueError, match=r"finds no rectifier after any selected layer of Sequential"):
        prune(nn.Sequential(nn.Linear(2, 2), nn.Tanh()), 0.5, allocation="entropy", batches=[torch.ones(2, 2)])
    with pytest.raises(ValueError, match=r"finds no rectifier after any selected layer"):
        prune(small_net(), 0.5, allocation="entropy", batches=BATCHES, max_batches=4, include="9.weight")
    with pytest.raises(ValueError, match=r"zeros='on' must be 'ignore' or 'off'"):
        EntropyBudget(zeros="on")


def test_without_any_batch_it_is_said_so():
    def none():
        yield from ()

    for empty in ([], none()):
        with pytest.raises(ValueError, match=r"gave no batch for allocation: pass a loader that is not empty"):
            prune(small_net(), 0.5, allocation="entropy", batches=empty)


def test_nan_before_a_rectifier_is_an_error_and_no_layer_to_take_from():
    model = small_net()
    model[1].running_var[0] = math.nan
    before = everything(model)
    with pytest.raises(ValueError, match=r"finds NaN before the rectifier after '0\.weight': look at the batches"):
        prune(model, 0.5, allocation="entropy", batches=BATCHES, max_batches=4)
    assert str(everything(model)) == str(before)


def test_a_parametrized_weight_that_is_named_in_full_belongs_to_its_layer():
    model = nn.Sequential(weight_norm(nn.Linear(4, 8)), nn.ReLU(), nn.Linear(8, 2))
    name = "0.parametrizations.weight.original1"
    found = EntropyBudget().estimate(model, {name: torch.ones(8, 4)}, [torch.randn(32, 4)], nn.Module.__call__)
    assert 0 < found.entropies[name] <= 1


def test_it_is_known_by_name_and_as_an_object():
    assert isinstance(ALLOCATIONS["entropy"], DataAllocation)
    model = small_net()
    by_name = make_masks(model, 0.5, allocation="entropy", batches=BATCHES, max_batches=4)
    assert by_name == make_masks(model, 0.5, allocation=EntropyBudget(), batches=BATCHES, max_batches=4)


def test_a_criterion_that_needs_data_reads_the_same_batches():
    model = small_net()
    batches = [(x, x.mean((1, 2, 3)).gt(0).long()) for x in BATCHES]
    masks = prune(model, 0.5, criterion="taylor", allocation="entropy", batches=batches, max_batches=4)
    assert masks.sparsity == pytest.approx(0.5, abs=0.01)


def test_a_training_prunes_by_it_step_by_step():
    reflow = Reflow(0.6, schedule=Gradual(every_n_epochs=1), allocation="entropy", calibration_batches=2)
    model = Module()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer(reflow, max_epochs=4).fit(model, loader())
    assert reflow.masks.sparsity == pytest.approx(0.6, abs=0.002)


def test_a_search_prunes_by_it():
    model = small_net()
    search = find_sparsity(
        model,
        BATCHES,
        lambda model: float((model[0].weight != 0).float().mean()),
        max_drop=0.5,
        tolerance=0.2,
        allocation="entropy",
        max_batches=2,
    )
    assert 0 < search.sparsity < 1
