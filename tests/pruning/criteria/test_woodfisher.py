import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenarios.gradients import forward, gradients_of_samples, make, split, weights_of
from torch import nn

from reflow_lightning.pruning import Choice, Masks, PruneSpec, WoodFisher, choose, prune
from reflow_lightning.pruning.criteria.losses import label_loss

DAMPING = 0.1


def added(gradients):
    """What is added to the diagonal: a share of the mean over the weights of all tensors."""
    return DAMPING * torch.cat([g.flatten(1).square().mean(0) for g in gradients]).mean()


def blocks_of_the_fisher(gradients, size, damping):
    """Explicit matrices, one block after the other, of (N, *shape) gradients."""
    flat = gradients.flatten(1)
    for start in range(0, flat.shape[1], size):
        g = flat[:, start : start + size]
        yield slice(start, start + g.shape[1]), g.T @ g / len(g) + damping * torch.eye(g.shape[1]).double()


@pytest.mark.parametrize("size", [1, 5, 64])
@pytest.mark.parametrize("case", ["small_net", "small_gru"])
def test_scores_are_those_of_the_explicit_inverse(case, size):
    model, batch = make(case)
    weights, gradients = weights_of(model), gradients_of_samples(model, batch)
    found = WoodFisher(block=size, damping=DAMPING).estimate(model, weights, split(batch, [5, 7]), forward)
    for name, weight in weights.items():
        scores = found(name, weight).flatten()
        for part, fisher in blocks_of_the_fisher(gradients[name], size, added(gradients.values())):
            expected = weight.flatten()[part] ** 2 / (2 * torch.linalg.inv(fisher).diagonal())
            torch.testing.assert_close(scores[part], expected, rtol=1e-8, atol=1e-14)


def test_the_inverse_is_that_of_the_woodbury_recursion():
    model, batch = make("small_net")
    gradients = gradients_of_samples(model, batch)["9.weight"].flatten(1)
    damping = added([gradients])
    weights = {"9.weight": model[9].weight.detach()}
    found = WoodFisher(block=24, damping=DAMPING).estimate(model, weights, [batch], forward)
    inverse = torch.eye(24).double() / damping
    for g in gradients:
        column = inverse @ g
        inverse = inverse - torch.outer(column, column) / (len(gradients) + g @ column)
    torch.testing.assert_close(found.inverses["9.weight"][0], inverse, rtol=1e-7, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 30), st.integers(0, 23), st.integers(0, 1000))
def test_the_update_is_the_minimum_of_the_quadratic_form_with_the_pruned_weights_at_zero(size, pruned, seed):
    model, batch = make("small_net")
    weight = model[9].weight.detach()
    gradients = gradients_of_samples(model, batch)["9.weight"]
    found = WoodFisher(block=size, damping=DAMPING).estimate(model, {"9.weight": weight}, [batch], forward)
    goes = torch.zeros(24, dtype=torch.bool)
    goes[torch.randperm(24, generator=torch.Generator().manual_seed(seed))[:pruned]] = True
    change = found.compensate({"9.weight": ~goes.view(weight.shape)})["9.weight"].flatten()
    assert not change[goes].any()
    for part, fisher in blocks_of_the_fisher(gradients, size, added([gradients])):
        q, s, w = goes[part], ~goes[part], weight.flatten()[part]
        expected = torch.linalg.solve(fisher[s][:, s], fisher[s][:, q] @ w[q])  # where the derivative vanishes
        torch.testing.assert_close(change[part][s], expected, rtol=1e-6, atol=1e-9)


def test_weights_that_are_zero_stay_zero_and_count_for_nothing():
    model, batch = make("small_net")
    with torch.no_grad():
        model[9].weight[:, ::2] = 0
    weight = model[9].weight.detach()
    gradients = gradients_of_samples(model, batch)["9.weight"][:, :, 1::2]
    found = WoodFisher(damping=DAMPING).estimate(model, {"9.weight": weight}, [batch], forward)
    [(_, fisher)] = blocks_of_the_fisher(gradients, 12, added([gradients]))
    expected = weight[:, 1::2].flatten() ** 2 / (2 * torch.linalg.inv(fisher).diagonal())
    scores = found("9.weight", weight)
    torch.testing.assert_close(scores[:, 1::2].flatten(), expected, rtol=1e-8, atol=1e-14)
    assert not scores[:, ::2].any()
    goes = torch.zeros(3, 8, dtype=torch.bool)
    goes[0, :4] = True
    change = found.compensate({"9.weight": ~goes})["9.weight"]
    assert not change[:, ::2].any()
    assert change[:, 1::2].any()


def test_prune_adds_the_update_and_leaves_exact_zeros():
    model, batch = make("small_net")
    before = weights_of(model)
    before = {name: weight.clone() for name, weight in before.items()}
    choice = choose(model, 0.6, PruneSpec(criterion="woodfisher"), batches=[batch], max_batches=1)
    assert all(torch.equal(weight, before[name]) for name, weight in weights_of(model).items())
    masks = prune(model, 0.6, criterion="woodfisher", batches=[batch], max_batches=1)
    assert masks == choice.masks
    for name, weight in weights_of(model).items():
        torch.testing.assert_close(weight, (before[name] + choice.changes[name]) * masks[name])
        assert not weight[~masks[name]].any()
    assert any(change.any() for change in choice.changes.values())


def test_a_choice_that_does_not_fit_changes_nothing():
    layer = nn.Linear(2, 1)
    before = layer.weight.clone()
    for name, shape in (("weight", (1, 3)), ("other", (1, 2))):
        with pytest.raises(ValueError, match="use the model it is of"):
            Choice(Masks({name: torch.ones(shape, dtype=torch.bool)}), {name: torch.ones(shape)}).apply(layer)
    assert torch.equal(layer.weight, before)


def test_gradients_of_batches_are_those_of_their_mean_loss():
    model, batch = make("small_net")
    weights, gradients = weights_of(model), gradients_of_samples(model, batch)
    criterion = WoodFisher(block=7, damping=DAMPING, gradients="batch")
    found = criterion.estimate(model, weights, split(batch, [4, 8]), forward)
    means = {n: torch.stack([part.mean(0) for part in g.split([4, 8])]) for n, g in gradients.items()}
    for name, weight in weights.items():
        for part, fisher in blocks_of_the_fisher(means[name], 7, added(means.values())):
            expected = weight.flatten()[part] ** 2 / (2 * torch.linalg.inv(fisher).diagonal())
            torch.testing.assert_close(found(name, weight).flatten()[part], expected, rtol=1e-7, atol=1e-14)


@pytest.mark.parametrize(
    "wrong", [{"block": 0}, {"block": 1.5}, {"damping": 0.0}, {"damping": float("nan")}, {"gradients": "all"}]
)
def test_arguments_out_of_range_are_errors(wrong):
    [name] = wrong
    with pytest.raises(ValueError, match=f"{name}="):
        WoodFisher(**wrong)


def test_gradients_that_are_not_finite_are_an_error_and_nothing_changes():
    model, (x, y) = make("small_net")
    before = {name: weight.clone() for name, weight in weights_of(model).items()}
    x[3] = float("nan")
    for criterion in ("woodfisher", "fisher", "snip", "taylor"):
        with pytest.raises(ValueError, match="NaN or infinite"):
            prune(model, 0.5, criterion=criterion, batches=[(x, y)], max_batches=1)
        assert all(torch.equal(weight, before[name]) for name, weight in weights_of(model).items())


def test_the_scale_of_the_loss_does_not_matter():
    model, batch = make("small_net")
    masks, changes = [], []
    for scale in (1, 1e-6):
        criterion = WoodFisher(loss=lambda output, batch, scale=scale: scale * label_loss(output, batch))
        choice = choose(model, 0.5, PruneSpec(criterion=criterion), batches=[batch], max_batches=1)
        masks.append(choice.masks)
        changes.append(choice.changes)
    assert masks[0] == masks[1]
    for name, change in changes[0].items():
        torch.testing.assert_close(changes[1][name], change, rtol=1e-6, atol=1e-10)


def test_without_any_gradient_the_order_is_that_of_magnitude():
    model, batch = make("small_net")
    criterion = WoodFisher(loss=lambda output, batch: output.sum() * 0)
    assert prune(copy.deepcopy(model), 0.5, criterion=criterion, batches=[batch], max_batches=1) == prune(model, 0.5)
