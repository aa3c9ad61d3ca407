"""The three criteria that are a mean of gradients, bit for bit: their sums and scores written out one by one."""

import pytest
import torch
from scenarios.gradients import forward, make, split, weights_of

from reflow_lightning.pruning import Fisher, Snip, Taylor
from reflow_lightning.pruning.criteria.gradients import LossOf, differentiable, gradients_of
from reflow_lightning.pruning.criteria.losses import label_loss
from reflow_lightning.pruning.criteria.sample_gradients import together_by_vmap


def sums(model, batches, term):
    """The sum of a term of every batch by name, and the number of samples."""
    with differentiable(model, weights_of(model)) as parameters:
        step = LossOf(model, forward, label_loss)
        total = {name: torch.zeros_like(weight, dtype=torch.float64) for name, weight in parameters.items()}
        for batch in batches:
            for name, value in term(step, parameters, batch).items():
                total[name] += value
    return {name: value.detach() for name, value in total.items()}, sum(len(x) for x, _ in batches)


def of_samples(step, parameters, batch):
    return {n: g.double().square().sum(0) for n, g in together_by_vmap(step, parameters, batch).items()}


def of_squares(step, parameters, batch):
    return {n: g.double().square() * len(batch[0]) for n, g in gradients_of(step, parameters, batch).items()}


def of_batches(step, parameters, batch):
    return {n: g.double() * len(batch[0]) for n, g in gradients_of(step, parameters, batch).items()}


def fisher(total, samples, weights):
    return {n: total[n] / samples * (w.double().square() / 2) for n, w in weights.items()}


def taylor(total, samples, weights):
    return {n: total[n] / samples * w.double().square() for n, w in weights.items()}


def snip(total, samples, weights):
    scores = {n: (total[n] / samples * w.double()).abs() for n, w in weights.items()}
    whole = sum(float(score.sum()) for score in scores.values())
    return {n: score / whole for n, score in scores.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", ["convolutions", "attention"])
@pytest.mark.parametrize(
    ("criterion", "term", "scores"),
    [(Fisher(), of_samples, fisher), (Taylor(), of_squares, taylor), (Snip(), of_batches, snip)],
    ids=["fisher", "taylor", "snip"],
)
def test_scores_are_the_same_to_the_bit(criterion, term, scores, case, dtype):
    model, (x, y) = make(case)
    model, batches = model.to(dtype), split((x.to(dtype), y), [7, 1, 4])
    weights = weights_of(model)
    expected = scores(*sums(model, batches, term), weights)
    found = criterion.estimate(model, weights, batches, forward)
    for name, weight in weights.items():
        assert found(name, weight).dtype == torch.float64
        assert torch.equal(found(name, weight), expected[name])


def test_a_network_without_any_gradient_scores_zero():
    model, batch = make("small_net")
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    weights = weights_of(model)
    for criterion in (Fisher(), Taylor(), Snip()):
        found = criterion.estimate(model, weights, [batch], forward)
        assert not any(found(name, weight).any() for name, weight in weights.items())
