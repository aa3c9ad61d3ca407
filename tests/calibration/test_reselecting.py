"""Which weights of a layer stay, beside a search of all choices."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reflow_lightning.calibration.least_squares import ridge
from reflow_lightning.calibration.reselecting import reselected


def problem(seed, outputs=1, inputs=6, kept=3):
    """Correlated inputs, the outputs of dense weights, and the largest of these."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)  # noqa: E731
    x, dense = draw(200, inputs) @ (torch.eye(inputs) + 0.5 * draw(inputs, inputs)), draw(outputs, inputs)
    gram, products = x.T @ x, x.T @ (x @ dense.T)
    chosen = dense.abs().flatten().topk(kept * outputs).indices
    mask = torch.zeros(outputs * inputs, dtype=torch.bool).index_fill(0, chosen, True).view(outputs, inputs)
    return gram, products, dense * mask, mask


def choose(gram, products, old, mask, free, columns):
    """In the only group that there is."""
    one = (part[None] for part in (gram, products, old, mask, free))
    return reselected(*one, columns, 0.01)[0]


def loss(stays, gram, products, old):
    start = old * stays
    new = start + ridge(gram, products - gram @ start.T, stays, 0.01)
    return float(((new @ gram) * new).sum() - 2 * (new * products.T).sum())


def test_it_finds_the_best_choice_of_all_mostly_and_magnitude_seldom():
    found = by_magnitude = 0
    for seed in range(40):
        gram, products, old, mask = problem(seed)
        choices = [torch.tensor([[i in of for i in range(6)]]) for of in itertools.combinations(range(6), 3)]
        best = min(loss(choice, gram, products, old) for choice in choices)
        stays = choose(gram, products, old, mask, torch.ones_like(mask), [6])
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
    stays = choose(gram, products, old * mask, mask, free, [5, 3])
    assert not (stays & ~free).any()
    for columns in (slice(0, 5), slice(5, 8)):
        assert stays[:, columns].sum() == mask[:, columns].sum()


def test_a_tensor_that_nothing_was_pruned_of_keeps_all():
    gram, products, old, mask = problem(0, 4, 8)
    mask[:, 5:] = True
    stays = choose(gram, products, old, mask, torch.ones_like(mask), [5, 3])
    assert stays[:, 5:].all()


def test_a_layer_that_gets_nothing_keeps_its_zeros():
    _, _, old, mask = problem(0, 2)
    nothing = torch.zeros(6, 6, dtype=torch.float64), torch.zeros(6, 2, dtype=torch.float64)
    assert torch.equal(choose(*nothing, old, mask, torch.ones_like(mask), [6]), mask)


def test_inputs_that_are_always_zero_do_no_harm():
    gram, products, old, mask = problem(0, 2)
    gram[0], gram[:, 0], products[0] = 0, 0, 0
    stays = choose(gram, products, old, mask, torch.ones_like(mask), [6])
    assert stays.sum() == mask.sum()
    assert not stays[:, 0].any()


def test_groups_are_chosen_in_as_each_by_itself():
    problems = [problem(seed, 2, 8, kept) for seed, kept in ((0, 2), (1, 5), (2, 8))]
    together = [torch.stack(parts) for parts in zip(*problems, strict=True)]
    stays = reselected(*together, torch.ones_like(together[3]), [5, 3], 0.01)
    for (gram, products, old, mask), found in zip(problems, stays, strict=True):
        assert torch.equal(found, choose(gram, products, old, mask, torch.ones_like(mask), [5, 3]))


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-12, 1e-3])
@pytest.mark.parametrize("samples", [1, 1e5])
def test_an_input_that_is_all_but_constant_neither_fails_nor_stalls_the_others(scale, samples):
    gram, products, old, mask = problem(0, 32, 16, 3)
    factor = torch.ones(16, dtype=torch.float64)
    factor[5] = scale
    gram, products = samples * gram * factor[:, None] * factor, samples * products * factor[:, None]
    stays = choose(gram, products, old, mask, torch.ones_like(mask), [16])
    assert (stays != mask).sum() > 30
    assert loss(stays, gram, products, old) < 0.99 * loss(mask, gram, products, old)
