import copy
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from reflow_lightning import Pruner
from reflow_lightning.pruning import PruneSpec, choose
from reflow_lightning.pruning.stepwise import check_steps, stepwise


@given(sparsity=st.floats(0, 0.999), steps=st.integers(1, 20), reached=st.floats(0, 0.999))
def test_each_step_goes_further_and_the_last_reaches_the_sparsity_itself(sparsity, steps, reached):
    targets = [target for _, target in stepwise(PruneSpec(), sparsity, steps, reached)]
    assert targets[-1] == sparsity
    assert 1 <= len(targets) <= steps
    assert all(a < b for a, b in itertools.pairwise(targets))
    assert all(target > reached for target in targets[:-1])


@given(sparsity=st.floats(0.1, 0.99), steps=st.integers(2, 12))
def test_in_each_step_the_same_share_of_what_is_left_goes(sparsity, steps):
    left = [1.0, *(1 - target for _, target in stepwise(PruneSpec(), sparsity, steps))]
    shares = [b / a for a, b in itertools.pairwise(left)]
    assert shares == pytest.approx([shares[0]] * steps)


@given(m=st.integers(2, 16), data=st.data(), steps=st.integers(1, 20))
def test_a_pattern_is_reached_over_those_that_keep_more(m, data, steps):
    n = data.draw(st.integers(1, m - 1))
    found = stepwise(PruneSpec(pattern=f"{n}:{m}"), 1 - n / m, steps)
    kept = [int(spec.pattern.split(":")[0]) for spec, _ in found]
    assert kept == sorted(set(kept), reverse=True)
    assert kept[-1] == n
    assert len(kept) <= min(steps, m - n)
    for spec, target in found:
        spec.check_sparsity(target)


@pytest.mark.parametrize(("pattern", "sparsity"), [(None, 0.9), ("2:4", 0.5), ("2:4", 0.7), ("1:8", 0.875)])
def test_the_masks_of_the_steps_lie_within_each_other_and_count_exactly(pattern, sparsity):
    torch.manual_seed(0)
    model, previous, counts = nn.Sequential(nn.Linear(32, 24), nn.Linear(24, 8)), None, []
    for spec, target in stepwise(PruneSpec(pattern=pattern), sparsity, steps=4):
        choice = choose(copy.deepcopy(model), target, spec, previous=previous)
        if previous is not None:
            assert all(not (mask & ~previous[name]).any() for name, mask in choice.masks.items())
        previous = choice.masks
        counts.append(sum(int((~mask).sum()) for mask in previous.values()))
    assert counts == sorted(set(counts))
    assert counts[-1] == round(sparsity * (32 * 24 + 24 * 8))


@pytest.mark.parametrize("pattern", [None, "2:4"])
@pytest.mark.parametrize("allocation", ["global", "uniform", "lamp"])
@pytest.mark.parametrize("kind", [nn.MultiheadAttention, nn.GRU, nn.Linear])
def test_maps_that_share_a_matrix_share_out_what_each_step_leaves(kind, allocation, pattern):
    """Queries, keys and values are ranked by themselves, though one parameter holds all of them."""
    model = nn.Sequential(nn.Linear(8, 8), kind(8, 8))
    layers = {"include": ("1.*",)} if pattern is None else {"pattern": pattern}
    event = Pruner(0.5, steps=3, repair="none", allocation=allocation, **layers, monitor=False).apply(model, [])
    assert event.sparsity == 0.5
    assert len(event.steps) == (3 if pattern is None else 2)


@pytest.mark.parametrize("steps", [0, -1, 1.5, True, "4"])
def test_steps_are_a_whole_number(steps):
    with pytest.raises(ValueError, match=r"steps=.* must be a whole number of at least 1"):
        check_steps(steps)


def test_the_warning_of_an_empty_layer_names_its_remedies_in_several_prunings_too():
    model = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40))
    model[1].weight.data.mul_(0.001)
    pruner = Pruner(0.6, steps=2, repair="none", monitor=False, calibration_batches=1)
    with pytest.warns(UserWarning, match=r"min_kept=.* would leave"):
        pruner.apply(model, [torch.randn(4, 40)])
