import copy

import pytest
import torch
from helpers import selected_size, zeros
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from zoo.convolutional import small_net

from reflow_lightning import prune
from reflow_lightning.pruning import make_masks
from reflow_lightning.running.live import LiveTensors


def unchanged(model, before):
    return all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@given(
    st.floats(0, 0.999),
    st.sampled_from(["global", "uniform"]),
    st.sampled_from(["magnitude", "random"]),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
    st.integers(0, 1000),
)
@settings(deadline=None, max_examples=80)
@pytest.mark.filterwarnings("ignore:.*leaves no weight.*")
def test_the_number_of_zeros_is_exact(sparsity, allocation, criterion, dtype, seed):
    torch.manual_seed(seed)
    model = small_net().to(dtype)
    expected = round(sparsity * selected_size(model))
    masks = prune(model, sparsity, allocation=allocation, criterion=criterion)
    assert sum(int((~mask).sum()) for mask in masks.values()) == expected
    assert zeros(model) >= expected  # a narrow type may hold a zero that stays


def test_ties_are_broken_by_position():
    model = nn.Linear(10, 1)
    nn.init.ones_(model.weight)
    assert prune(model, 0.4)["weight"][0].tolist() == [False] * 4 + [True] * 6


def test_the_same_on_every_run():
    for criterion in ("magnitude", "random"):
        torch.manual_seed(0)
        model = small_net().bfloat16()
        first = make_masks(model, 0.8, criterion=criterion)
        torch.manual_seed(1)
        second = make_masks(copy.deepcopy(model), 0.8, criterion=criterion)
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_equal_to_torch_where_there_are_no_ties():
    from torch.nn.utils import prune as torch_prune

    model = small_net()
    other = copy.deepcopy(model)
    masks = prune(model, 0.8)
    layers = [(m, "weight") for m in other.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    torch_prune.global_unstructured(layers, torch_prune.L1Unstructured, amount=0.8)
    for mask, (layer, _) in zip(masks.values(), layers, strict=True):
        assert torch.equal(mask, layer.weight_mask.bool())


@pytest.mark.parametrize("criterion", ["magnitude", "random"])
@pytest.mark.parametrize("allocation", ["global", "uniform"])
@pytest.mark.filterwarnings("ignore:.*leaves no weight.*")
def test_a_sparse_model_is_pruned_further_and_keeps_its_zeros(criterion, allocation):
    model = small_net()
    first = prune(model, 0.5, criterion="random", allocation=allocation)
    second = prune(model, 0.8, criterion=criterion, allocation=allocation)
    assert zeros(model) == round(0.8 * selected_size(model))
    assert all(not (second[name] & ~first[name]).any() for name in first)


def test_the_masks_of_before_win_over_zeros():
    model = nn.Linear(4, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, 1.0, 2.0, 3.0]]))  # a kept weight that happens to be zero
    previous = {"weight": torch.tensor([[True, True, True, False]])}
    assert make_masks(model, 0.25, previous=previous)["weight"].tolist() == [[True, True, True, False]]


def test_the_bools_of_one_earlier_mask_at_a_time_are_held():
    """All of them together would take a byte a weight."""
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(12)))
    first = prune(copy.deepcopy(model), 0.5)
    with LiveTensors() as without:
        make_masks(model, 0.8)
    with LiveTensors() as after:
        masks = make_masks(model, 0.8, previous=first)
    assert after.peak - without.peak < 5 * model[0].weight.numel()  # some copies of one, not of twelve
    assert not any(bool((mask & ~first[name]).any()) for name, mask in masks.items())


def test_tied_weights_count_once():
    model = nn.ModuleDict({"a": nn.Linear(10, 10, bias=False), "b": nn.Linear(10, 10, bias=False)})
    model["b"].weight = model["a"].weight
    prune(model, 0.5)
    assert int((model["b"].weight == 0).sum()) == 50


def test_uniform_prunes_each_layer_alike():
    masks = prune(small_net(), 0.75, allocation="uniform")
    assert all(abs(sparsity - 0.75) < 0.05 for sparsity in masks.sparsities.values())


def test_min_kept_prevents_the_loss_of_a_layer():
    model = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10))
    nn.init.constant_(model[0].weight, 1e-6)
    with pytest.warns(UserWarning, match=r"leaves no weight in 0.weight.*min_kept"):
        prune(copy.deepcopy(model), 0.6)
    masks = prune(model, 0.6, min_kept=0.1)
    assert int(masks["0.weight"].sum()) == 20
    assert masks.sparsity == pytest.approx(0.6)


def test_a_callable_scores_and_allocates():
    model = small_net()
    dense = model[9].weight.detach().clone().abs()
    masks = prune(model, 0.5, criterion=lambda name, weight: -weight.abs())
    assert dense[masks["9.weight"]].max() <= dense[~masks["9.weight"]].min()

    def first_only(scores, keep, floors):
        sizes = {name: s.weight.numel() for name, s in scores.items()}
        counts = {}
        for name, size in sizes.items():
            counts[name] = min(size, keep - sum(counts.values()))
        return counts

    with pytest.warns(UserWarning, match="leaves no weight"):
        masks = prune(small_net(), 0.9, allocation=first_only)
    assert masks["0.weight"].sum() == 67
    with pytest.raises(ValueError, match="gave 3 weights for 3 tensors: it must share out"):
        prune(small_net(), 0.5, allocation=lambda scores, keep, floors: dict.fromkeys(scores, 1))


def test_sparsity_zero_prunes_nothing():
    model = small_net()
    assert prune(model, 0.0).sparsity == 0
    assert zeros(model) == 0


@pytest.mark.parametrize("sparsity", [1.0, -0.1, 2, float("nan"), "0.5", None, True])
def test_sparsity_out_of_range_is_an_error(sparsity):
    with pytest.raises(ValueError, match="sparsity="):
        prune(small_net(), sparsity)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("criterion", ["magnitude", "random"])
def test_weights_that_are_not_finite_are_an_error_and_nothing_is_changed(value, criterion):
    model = small_net()
    with torch.no_grad():
        model[9].weight[0, 0] = value
    with pytest.raises(ValueError, match=r"parameter '9.weight' holds NaN or infinite values"):
        prune(model, 0.5, criterion=criterion)
    assert zeros(model) == 0


def test_a_criterion_that_raises_leaves_the_model_as_it_was():
    model = small_net()
    before = copy.deepcopy(model.state_dict())

    def broken(name, weight):
        if name == "9.weight":
            raise RuntimeError("no score")
        return weight.abs()

    with pytest.raises(RuntimeError, match="no score"):
        prune(model, 0.5, criterion=broken)
    assert unchanged(model, before)


def test_huge_and_tiny_weights_are_ranked():
    model = nn.Linear(4, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3e38, 1e-45, -1e-40, -1e30]]))
    assert prune(model, 0.5)["weight"].tolist() == [[True, False, False, True]]


def test_channels_last_and_frozen_weights_are_pruned_in_place():
    model = nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last).requires_grad_(False)
    pointer = model.weight.data_ptr()
    prune(model, 0.5)
    assert zeros(model) == 72
    assert model.weight.data_ptr() == pointer
