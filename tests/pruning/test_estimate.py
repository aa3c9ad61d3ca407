import pytest
import torch
from scenarios.gradients import make
from torch import nn

from reflow_lightning.pruning import (
    DataCriterion,
    Estimated,
    Fisher,
    PerOutput,
    PruneSpec,
    Snip,
    Taylor,
    Wanda,
    WoodFisher,
    check_model,
    choose,
    make_masks,
    prune,
)

NAMES = {"fisher": Fisher(), "taylor": Taylor(), "snip": Snip(), "wanda": Wanda(), "woodfisher": WoodFisher()}


def chosen(model, sparsity, criterion, batches=None):
    return choose(model, sparsity, PruneSpec(criterion=criterion), batches=batches)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_stands_for_its_criterion_with_defaults(name):
    model, batch = make("small_net")
    by_name = make_masks(model, 0.5, criterion=name, batches=[batch], max_batches=1)
    assert by_name == make_masks(model, 0.5, criterion=NAMES[name], batches=[batch], max_batches=1)
    assert isinstance(NAMES[name], DataCriterion)


@pytest.mark.parametrize("criterion", [*NAMES, PerOutput("fisher"), PerOutput("wanda")])
@pytest.mark.parametrize("call", [prune, make_masks, chosen])
def test_no_batches_are_an_error_that_names_the_remedy(criterion, call):
    model, _ = make("small_net")
    before = model[0].weight.clone()
    check_model(model, 0.5, PruneSpec(criterion=criterion))
    with pytest.raises(ValueError, match="needs data, but batches=None: pass batches=loader"):
        call(model, 0.5, criterion=criterion)
    with pytest.raises(ValueError, match="batches=list gave no batch for scoring"):
        call(model, 0.5, criterion=criterion, batches=[])
    assert torch.equal(model[0].weight, before)


@pytest.mark.parametrize("criterion", ["magnitude", "random", PerOutput("magnitude")])
def test_criteria_that_need_no_data_read_none(criterion):
    def never():
        raise AssertionError
        yield

    prune(nn.Linear(4, 4), 0.5, criterion=criterion, batches=never())
    prune(nn.Linear(4, 4), 0.5, criterion=criterion)


def test_max_batches_and_forward_are_heeded():
    seen = []

    def forward(model, batch):
        seen.append(1)
        return model(batch["inputs"])

    batches = [{"inputs": torch.randn(4, 3), "y": torch.tensor([0, 1, 1, 0])} for _ in range(9)]
    prune(nn.Linear(3, 2), 0.5, criterion="taylor", batches=batches, max_batches=3, forward=forward)
    assert len(seen) == 3


def test_a_criterion_of_ones_own_may_read_data():
    class Mean:
        def estimate(self, model, weights, batches, forward):
            [batch] = list(batches)
            return Estimated(self, {name: weight.abs() + batch.mean() for name, weight in weights.items()})

    layer = nn.Linear(4, 4)
    expected = make_masks(layer, 0.5)
    assert prune(layer, 0.5, criterion=Mean(), batches=[torch.ones(2)], max_batches=1) == expected
    with pytest.raises(ValueError, match="holds no scores for 'other'"):
        Estimated(Mean(), {})("other", layer.weight)


@pytest.mark.parametrize("criterion", NAMES)
def test_what_was_pruned_before_stays_pruned(criterion):
    model, batch = make("small_net")
    first = prune(model, 0.5, criterion=criterion, batches=[batch], max_batches=1)
    second = prune(model, 0.8, criterion=criterion, batches=[batch], max_batches=1)
    assert not any(bool((second[name] & ~mask).any()) for name, mask in first.items())
    assert round(0.8 * sum(mask.numel() for mask in second.values())) == sum(int((~m).sum()) for m in second.values())


@pytest.mark.parametrize("allocation", ["uniform", "erk", "lamp"])
@pytest.mark.parametrize("criterion", ["fisher", "woodfisher", "wanda"])
def test_every_allocation_takes_scores_that_were_found_on_data(criterion, allocation):
    model, batch = make("small_net")
    masks = prune(model, 0.5, criterion=criterion, allocation=allocation, batches=[batch], max_batches=1, min_kept=0.01)
    assert masks.sparsity == pytest.approx(0.5, abs=1e-3)


def test_a_pattern_takes_scores_that_were_found_on_data():
    layer = nn.Linear(8, 4)
    batch = (torch.randn(8, 8), torch.randint(4, (8,)))
    mask = prune(layer, 0.5, criterion="woodfisher", pattern="2:4", batches=[batch], max_batches=1)["weight"]
    assert mask.view(4, 2, 4).sum(2).eq(2).all()


def test_a_compiled_model_gives_the_same_scores():
    model, batch = make("small_net")
    compiled = torch.compile(model)
    for name in NAMES:
        plain = make_masks(model, 0.5, criterion=name, batches=[batch], max_batches=1)
        found = make_masks(compiled, 0.5, criterion=name, batches=[batch], max_batches=1)
        assert all(torch.equal(found[f"_orig_mod.{name}"], mask) for name, mask in plain.items())
