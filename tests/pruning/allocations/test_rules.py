import copy

import pytest
import torch
from helpers import selected_size
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from zoo.convolutional import small_net

from reflow_lightning import prune
from reflow_lightning.pruning import Magnitude, Scores, make_masks, select
from reflow_lightning.pruning.allocations import Lamp, erk, lamp, uniform
from reflow_lightning.pruning.allocations.apportion import apportion

SHAPES = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 40), st.integers(1, 40)),
        st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(3), st.just(3)),
    ),
    min_size=1,
    max_size=6,
)
VALUES = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=12), min_size=1, max_size=4)  # many ties and zeros


def scores_of(weights):
    return {str(i): Scores(str(i), w, Magnitude()) for i, w in enumerate(weights)}


def no_floors(scores):
    return dict.fromkeys(scores, 0)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=8), st.integers(0, 20), st.floats(0, 1))
def test_apportionment_is_exact_and_within_bounds(sizes, floor, share):
    sizes = {str(i): size for i, size in enumerate(sizes)}
    least = {name: min(floor, size) for name, size in sizes.items()}
    total = sum(least.values()) + round(share * (sum(sizes.values()) - sum(least.values())))
    counts = apportion(total, sizes, least, sizes)
    assert sum(counts.values()) == total
    assert all(least[name] <= counts[name] <= sizes[name] for name in sizes)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=8), st.floats(0, 1))
def test_without_floors_every_share_is_the_same_to_one_weight(sizes, share):
    sizes = {str(i): size for i, size in enumerate(sizes)}
    total = round(share * sum(sizes.values()))
    counts = apportion(total, sizes, dict.fromkeys(sizes, 0), sizes)
    exact = total / sum(sizes.values())
    assert all(abs(counts[name] - exact * size) < 1 + 1e-6 for name, size in sizes.items())


def erdos_renyi_kernel(shapes, density):
    """The densities by the published procedure: what would exceed one becomes dense, the others share the rest."""
    numel = [torch.Size(shape).numel() for shape in shapes]
    raw = [sum(shape) / n for shape, n in zip(shapes, numel, strict=True)]
    dense = set()
    while True:
        budget = density * sum(numel) - sum(numel[i] for i in dense)
        divisor = sum(raw[i] * numel[i] for i in range(len(shapes)) if i not in dense)
        epsilon = budget / divisor if divisor else 0.0
        exceeding = [i for i in range(len(shapes)) if i not in dense and epsilon * raw[i] > 1]
        if not exceeding:
            return [1.0 if i in dense else epsilon * raw[i] for i in range(len(shapes))]
        largest = max(raw[i] for i in exceeding)
        dense |= {i for i in exceeding if raw[i] == largest}


@given(SHAPES, st.floats(0.01, 1))
@settings(deadline=None)
def test_erk_gives_the_published_densities_to_one_weight(shapes, density):
    scores = scores_of([torch.ones(shape) for shape in shapes])
    total = sum(s.weight.numel() for s in scores.values())
    keep = round(density * total)
    counts = erk(scores, keep, no_floors(scores))
    assert sum(counts.values()) == keep
    for count, s, share in zip(counts.values(), scores.values(), erdos_renyi_kernel(shapes, keep / total), strict=True):
        assert abs(count - share * s.weight.numel()) < 1 + 1e-6


@given(SHAPES, st.floats(0, 1), st.integers(0, 30))
@settings(deadline=None)
@pytest.mark.parametrize("rule", [uniform, erk, lamp])
def test_counts_are_exact_and_respect_floors(rule, shapes, share, floor):
    scores = scores_of([torch.rand(shape) for shape in shapes])
    floors = {name: min(floor, s.most) for name, s in scores.items()}
    least = sum(floors.values())
    keep = least + round(share * (sum(s.most for s in scores.values()) - least))
    counts = rule(scores, keep, floors)
    assert sum(counts.values()) == keep
    assert all(floors[name] <= counts[name] <= s.most for name, s in scores.items())


def lamp_scores(weights):
    """Score by score from the definition; of equal weights the later one counts as the larger."""
    return [
        w**2 / total if (total := sum(v**2 for j, v in enumerate(weights) if (abs(v), j) >= (abs(w), i))) else 0.0
        for i, w in enumerate(weights)
    ]


@given(VALUES)
def test_lamp_scores_follow_the_definition(layers):
    for weights in layers:
        given_scores = Lamp(Magnitude())("w", torch.tensor(weights, dtype=torch.float32))
        assert given_scores.tolist() == pytest.approx(lamp_scores(weights), rel=1e-12)


@given(VALUES, st.floats(0, 1))
@settings(deadline=None)
def test_lamp_keeps_the_best_scores_of_all_layers(layers, share):
    scores = scores_of([torch.tensor(weights, dtype=torch.float32) for weights in layers])
    keep = round(share * sum(len(weights) for weights in layers))
    counts = lamp(scores, keep, no_floors(scores))
    ranked = [sorted(lamp_scores(weights), reverse=True) for weights in layers]
    kept = [score for layer, count in zip(ranked, counts.values(), strict=True) for score in layer[:count]]
    left = [score for layer, count in zip(ranked, counts.values(), strict=True) for score in layer[count:]]
    assert len(kept) == keep
    assert not kept or not left or min(kept) >= max(left) - 1e-12


@given(st.lists(st.integers(1, 30), min_size=2, max_size=6), st.integers(0, 100))
@settings(deadline=None)
def test_lamp_empties_no_layer_while_each_can_have_a_weight(sizes, seed):
    generator = torch.Generator().manual_seed(seed)
    weights = [10.0**-i * (0.1 + torch.rand(n, generator=generator)) for i, n in enumerate(sizes)]
    counts = lamp(scores_of(weights), len(sizes), dict.fromkeys(map(str, range(len(sizes))), 0))
    assert list(counts.values()) == [1] * len(sizes)


@pytest.mark.parametrize("allocation", ["erk", "lamp"])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.87, 0.95])
def test_pruning_is_exact(allocation, sparsity):
    model = small_net()
    masks = prune(model, sparsity, allocation=allocation)
    assert sum(int((~mask).sum()) for mask in masks.values()) == round(sparsity * selected_size(model))
    assert all(not parameter[~masks[name]].any() for name, parameter in select(model).items())


@pytest.mark.parametrize("allocation", ["erk", "lamp"])
def test_within_a_layer_the_largest_weights_stay(allocation):
    model = small_net()
    weights = {name: w.detach().abs() for name, w in select(model).items()}
    for name, mask in make_masks(model, 0.8, allocation=allocation).items():
        assert mask.any()
        assert not (~mask).any() or weights[name][mask].min() > weights[name][~mask].max()


@pytest.mark.parametrize("allocation", ["erk", "lamp"])
def test_a_pattern_and_floors_hold_as_well(allocation):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 32), nn.Linear(32, 4))
    masks = prune(model, 0.9, allocation=allocation, pattern="2:4", min_kept=0.02)
    total = selected_size(model)
    assert sum(int(mask.sum()) for mask in masks.values()) == total - round(0.9 * total)
    for mask in masks.values():
        assert int(mask.view(mask.shape[0], -1, 4).sum(-1).max()) <= 2
        assert int(mask.sum()) >= int(0.02 * total)


@pytest.mark.parametrize("pattern", [None, "2:4"])
@pytest.mark.parametrize("allocation", ["uniform", "erk", "lamp"])
def test_what_earlier_masks_pruned_never_grows_back(allocation, pattern):
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(4 * i, 3 + 2 * i, bias=False) for i in range(1, 5)])
    total = selected_size(model)
    masks = prune(model, 0.5, allocation=allocation, pattern=pattern)
    for pruned in range(total // 2, total * 9 // 10):
        with torch.no_grad():  # trained in between
            for weight in model.parameters():
                weight += 0.1 * torch.randn_like(weight)
        masks.apply(model)
        later = make_masks(model, pruned / total, allocation=allocation, pattern=pattern, previous=masks)
        assert not any((later[name] & ~masks[name]).any() for name in masks)
        masks = later


def test_lamp_asks_a_function_for_its_scores_once():
    asked = []

    def noisy(name, weight):
        asked.append(name)
        return torch.rand_like(weight)

    model = small_net()
    prune(copy.deepcopy(model), 0.5, allocation="lamp", criterion=noisy)
    assert sorted(asked) == sorted(select(model))
