"""Criteria of gradients against a plain loop over samples, in float64."""

from contextlib import nullcontext, suppress

import pytest
import torch
from helpers import everything
from scenarios.gradients import N, forward, gradients_of_samples, make, split, weights_of
from torch import nn
from torch.nn import functional
from zoo import networks
from zoo.convolutional import small_net

from reflow_lightning.pruning import Fisher, Snip, Taylor, WoodFisher, prune


def fisher(w, g):
    return w**2 * (g**2).mean(0) / 2


def snip(w, g):
    return (w * g.mean(0)).abs()


def taylor_in_batches_of_four(w, g):
    return sum((w * part.mean(0)) ** 2 for part in g.split(4)) / 3


@pytest.mark.parametrize("case", networks("classifier"))
@pytest.mark.parametrize(
    ("criterion", "reference"), [(Fisher(), fisher), (Taylor(), taylor_in_batches_of_four), (Snip(), snip)]
)
def test_scores_are_those_of_a_plain_loop_over_samples(case, criterion, reference):
    if case == "branching" and criterion != Fisher():
        return  # a whole batch takes one branch
    model, batch = make(case)
    weights, gradients = weights_of(model), gradients_of_samples(model, batch)
    expected = {name: reference(w, gradients[name]) for name, w in weights.items()}
    if criterion == Snip():
        whole = sum(score.sum() for score in expected.values())
        expected = {name: score / whole for name, score in expected.items()}
    found = criterion.estimate(model, weights, split(batch, [4, 4, 4]), forward)
    for name, score in expected.items():
        torch.testing.assert_close(found(name, weights[name]), score, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize("criterion", [Fisher(), Snip(), WoodFisher(block=5), Taylor()])
def test_the_split_into_batches_changes_nothing_except_for_taylor(criterion):
    model, batch = make("small_net")
    weights = weights_of(model)
    whole = criterion.estimate(model, weights, [batch], forward)
    parts = criterion.estimate(model, weights, split(batch, [7, 1, 4]), forward)
    same = [torch.allclose(whole(n, w), parts(n, w), rtol=1e-8, atol=1e-16) for n, w in weights.items()]
    assert not any(same) if criterion == Taylor() else all(same)


def test_taylor_ranks_like_fisher_with_single_samples_and_like_snip_with_one_batch():
    model, batch = make("small_net")
    weights = weights_of(model)
    single, whole = split(batch, [1] * N), [batch]
    for batches, other, power in ((single, Fisher(), 1), (whole, Snip(), 2)):
        ours, others = (c.estimate(model, weights, batches, forward) for c in (Taylor(), other))
        ratios = torch.cat([(ours(n, w) / others(n, w) ** power).flatten() for n, w in weights.items()])
        torch.testing.assert_close(ratios, ratios[:1].expand_as(ratios), rtol=1e-6, atol=0)


@pytest.mark.parametrize("criterion", ["fisher", "taylor", "snip", "wanda", "woodfisher"])
@pytest.mark.parametrize("requires_grad", [True, False])
def test_only_the_weights_that_go_change(criterion, requires_grad):
    torch.manual_seed(0)
    model = small_net().train().requires_grad_(requires_grad)
    model[0].weight.grad = kept = torch.ones_like(model[0].weight)
    model[5].eval()
    before = everything(model)
    masks = prune(model, 0.5, criterion=criterion, batches=[(torch.randn(9, 1, 6, 6), torch.randint(3, (9,)))] * 2)
    after = everything(model)
    random = before.pop("random"), after.pop("random")
    assert random[0][1:] == random[1][1:]
    for name in before["values"]:
        if name not in masks:
            assert after["values"][name] == before["values"][name]
        elif criterion != "woodfisher":
            assert torch.equal(model.state_dict()[name] != 0, masks[name])
    assert {k: v for k, v in after.items() if k != "values"} == {k: v for k, v in before.items() if k != "values"}
    assert model[0].weight.grad is kept
    assert all(p.grad is None for p in model.parameters() if p is not model[0].weight)


@pytest.mark.parametrize("criterion", [Fisher, Taylor, Snip, WoodFisher])
def test_a_loss_of_ones_own_sees_the_output_and_the_batch(criterion):
    model = nn.Linear(3, 1, bias=False)
    x, target = torch.randn(5, 3), torch.randn(5, 1)
    loss = criterion(loss=lambda output, batch: (output - batch["goal"]).square().mean())
    found = loss.estimate(model, {"weight": model.weight.detach()}, [{"x": x, "goal": target}], lambda m, b: m(b["x"]))
    assert found("weight", model.weight).gt(0).all()


def test_a_batch_without_labels_is_an_error_that_names_the_remedy():
    for batch in (torch.randn(4, 3), {"x": torch.randn(4, 3), "image_id": torch.arange(4)}, [torch.randn(4, 3)]):
        with pytest.raises(ValueError, match=r"the default loss needs logits and labels.*Fisher\(loss="):
            prune(nn.Linear(3, 2), 0.5, criterion="fisher", batches=[batch], max_batches=1)


@pytest.mark.parametrize("key", ["y", "label", "labels", "target"])
def test_labels_of_a_dict_are_found(key):
    batch = {"x": torch.randn(4, 3), key: torch.tensor([0, 1, 1, 0])}
    prune(nn.Linear(3, 2), 0.5, criterion="fisher", batches=[batch], max_batches=1)


def test_a_batch_that_can_not_be_split_is_an_error_that_names_the_remedy():
    batch = {"x": torch.randn(4, 3), "y": torch.tensor([0, 1, 1, 0]), "state": torch.zeros(2, 4, 3)}
    with pytest.raises(ValueError, match=r"first dimensions \[2, 4\] can't be split.*'taylor'"):
        prune(nn.Linear(3, 2), 0.5, criterion="fisher", batches=[batch], max_batches=1)
    prune(nn.Linear(3, 2), 0.5, criterion="taylor", batches=[batch], max_batches=1)


@pytest.mark.parametrize("criterion", ["fisher", "taylor"])
def test_a_loss_that_is_no_scalar_or_has_no_gradient_is_an_error(criterion):
    batch = (torch.randn(4, 3), torch.tensor([0, 1, 1, 0]))
    kind = {"fisher": Fisher, "taylor": Taylor}[criterion]
    summed = kind(loss=lambda output, batch: functional.cross_entropy(output, batch[1], reduction="none"))
    with pytest.raises(ValueError, match=r"loss gave a tensor of shape \(\d,\): it must return a scalar"):
        prune(nn.Linear(3, 2), 0.5, criterion=summed, batches=[batch], max_batches=1)
    with pytest.raises(ValueError, match="computed without gradients"):
        prune(nn.Linear(3, 2), 0.5, criterion=kind(), batches=[batch], forward=torch.no_grad()(forward), max_batches=1)


def test_gradients_are_taken_where_they_are_switched_off():
    model, batch = make("small_net")
    weights = weights_of(model)
    expected = Fisher().estimate(model, weights, [batch], forward)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            found = Fisher().estimate(model, weights, [batch], forward)
        assert all(torch.equal(found(n, w), expected(n, w)) for n, w in weights.items())


@pytest.mark.parametrize("criterion", ["fisher", "woodfisher", "taylor", "snip"])
@pytest.mark.parametrize("name", networks("classifier"))
def test_a_network_has_the_parameters_that_it_had(name, criterion):
    model, batch = make(name)
    before = dict(model.named_parameters(remove_duplicate=False))
    with nullcontext() if name != "branching" else suppress(ValueError):  # where a whole batch takes one branch
        prune(model, 0.5, criterion=criterion, batches=[batch], max_batches=1)
    after = dict(model.named_parameters(remove_duplicate=False))
    assert all(after[path] is parameter for path, parameter in before.items())
