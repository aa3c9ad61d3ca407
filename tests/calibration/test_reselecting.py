"""Which weights of a layer stay, beside a search of all choices."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reflow_lightning.calibration.reselecting import reselected
from reflow_lightning.calibration.solving import _fit


def problem(seed, outputs=1, inputs=6, kept=3):
    """Correlated inputs, the outputs of dense weights, and the largest of these."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)  # noqa: E731
    x, dense = draw(200, inputs) @ (torch.eye(inputs) + 0.5 * draw(inputs, inputs)), draw(outputs, inputs)
    gram, products = x.T @ x, x.T @ (x @ dense.T)
    chosen = dense.abs().flatten().topk(kept * outputs).indices
    mask = torch.zeros(outputs * inputs, dtype=torch.bool).index_fill(0, chosen, True).view(outputs, inputs)
    return gram, products, dense * mask, mask


def loss(stays, gram, products, old):
    return _fit(gram, products, old, stays, 0.01).misfit


def test_it_finds_the_best_choice_of_all_mostly_and_magnitude_seldom():
    found = by_magnitude = 0
    for seed in range(40):
        gram, products, old, mask = problem(seed)
        choices = [torch.tensor([[i in of for i in range(6)]]) for of in itertools.combinations(range(6), 3)]
        best = min(loss(choice, gram, products, old) for choice in choices)
        stays = reselected(gram, products, old, mask, torch.ones_like(mask), [6], 0.01)
        found += loss(stays, gram, products, old) == pytest.approx(best)
        by_magnitude += loss(mask, gram, products, old) == pytest.approx(best)
    assert found >= 24
    assert by_magnitude <= 12


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 6))
def test_every_tensor_keeps_its_number_and_what_is_not_free_stays_zero(seed, outputs, kept):
    gram, products, old, mask = problem(seed, outputs, 8, kept)
    free = torch.rand(mask.shape, generator=torch.Generator().manual_seed(seed)) > 0.3
    mask &= free
    stays = reselected(gram, products, old * mask, mask, free, [5, 3], 0.01)
    assert not (stays & ~free).any()
    for columns in (slice(0, 5), slice(5, 8)):
        assert stays[:, columns].sum() == mask[:, columns].sum()


def test_a_tensor_that_nothing_was_pruned_of_keeps_all():
    gram, products, old, mask = problem(0, 4, 8)
    mask[:, 5:] = True
    stays = reselected(gram, products, old, mask, torch.ones_like(mask), [5, 3], 0.01)
    assert stays[:, 5:].all()


def test_a_layer_that_gets_nothing_keeps_its_zeros():
    _, _, old, mask = problem(0, 2)
    nothing = torch.zeros(6, 6, dtype=torch.float64), torch.zeros(6, 2, dtype=torch.float64)
    assert torch.equal(reselected(*nothing, old, mask, torch.ones_like(mask), [6], 0.01), mask)


def test_inputs_that_are_always_zero_do_no_harm():
    gram, products, old, mask = problem(0, 2)
    gram[0], gram[:, 0], products[0] = 0, 0, 0
    stays = reselected(gram, products, old, mask, torch.ones_like(mask), [6], 0.01)
    assert stays.sum() == mask.sum()
    assert not stays[:, 0].any()
