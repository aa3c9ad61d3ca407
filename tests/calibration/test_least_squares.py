import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reflow_lightning.calibration.least_squares import Normals, ridge, solved_at_once

CPU = torch.device("cpu")


def problem(samples=40, inputs=6, outputs=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, inputs, generator=generator, dtype=torch.float64) + 1
    y = torch.randn(samples, outputs, generator=generator, dtype=torch.float64) - 2
    kept = torch.rand(outputs, inputs, generator=generator) > 0.5
    return x, y, kept


def by_lstsq(x, y, kept, penalty=0.0):
    """Row by row, with the penalty as further samples."""
    solution = np.zeros(kept.shape)
    for row, columns in enumerate(kept.numpy()):
        a = np.vstack([x.numpy()[:, columns], np.sqrt(penalty) * np.eye(columns.sum())])
        b = np.concatenate([y.numpy()[:, row], np.zeros(columns.sum())])
        solution[row, columns] = np.linalg.lstsq(a, b, rcond=None)[0]
    return torch.from_numpy(solution)


def solved(x, y, kept, strength=0.0):
    return ridge(x.T @ x, x.T @ y, kept, strength)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(1, 9), st.floats(0, 1), st.integers(0, 100))
def test_each_row_is_the_least_squares_solution_on_its_own_support(inputs, outputs, strength, seed):
    x, y, kept = problem(40, inputs, outputs, seed)
    penalty = strength * float((x.T @ x).diagonal().mean())
    torch.testing.assert_close(solved(x, y, kept, strength), by_lstsq(x, y, kept, penalty), rtol=1e-6, atol=1e-9)


def test_rows_without_support_stay_zero_and_zeros_stay_zero():
    x, y, kept = problem()
    kept[2] = False
    change = solved(x, y, kept, 0.1)
    assert not change[2].any()
    assert not change[~kept].any()
    assert not solved(x, y, torch.zeros_like(kept)).any()


def test_rows_that_are_solved_a_few_at_a_time_are_the_same(monkeypatch):
    x, y, kept = problem(outputs=30)
    expected = solved(x, y, kept, 0.1)
    monkeypatch.setattr("reflow_lightning.calibration.least_squares._ELEMENTS", 40)
    torch.testing.assert_close(solved(x, y, kept, 0.1), expected)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 30), st.integers(1, 4), st.floats(0, 1), st.integers(0, 100))
def test_each_row_that_keeps_a_weight_is_in_one_set(outputs, inputs, share, seed):
    kept = torch.rand(2, outputs, inputs, generator=torch.Generator().manual_seed(seed)) < share
    found = [[group, row] for groups, rows in solved_at_once(kept) for group, row in zip(groups, rows, strict=True)]
    assert sorted(found) == torch.nonzero(kept.any(2)).tolist()


def test_rows_of_many_groups_are_solved_at_once():
    assert len(list(solved_at_once(torch.ones(900, 1, 9, dtype=torch.bool)))) == 1


@pytest.mark.parametrize("case", ["repeated input", "dead input", "fewer samples than inputs"])
def test_a_singular_system_gets_the_solution_of_least_norm(case):
    x, y, kept = problem(3 if case == "fewer samples than inputs" else 40)
    if case == "repeated input":
        x[:, 1] = x[:, 0]
    if case == "dead input":
        x[:, 1] = 0
    kept[:] = True
    torch.testing.assert_close(solved(x, y, kept), by_lstsq(x, y, kept), rtol=1e-6, atol=1e-8)


def test_no_signal_at_all_changes_nothing():
    _, y, kept = problem()
    assert not solved(torch.zeros(40, 6).double(), y, kept, 0.01).any()


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=5), st.integers(1, 3), st.booleans())
def test_sums_are_those_of_the_samples_however_they_are_split(sizes, groups, centred):
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(groups, sum(sizes), k, generator=generator).double() + 2 for k in (4, 3))
    normals = Normals(groups, 4, 3, CPU)
    for part_x, part_y in zip(x.split(sizes, 1), y.split(sizes, 1), strict=True):
        normals.update(part_x, part_y)
    sums = normals.compute(centred)
    if centred:
        torch.testing.assert_close(sums.mean_x, x.mean(1, keepdim=True))
        torch.testing.assert_close(sums.mean_y, y.mean(1, keepdim=True))
        x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    else:
        assert not sums.mean_x.any()
        assert not sums.mean_y.any()
    torch.testing.assert_close(sums.gram, x.transpose(1, 2) @ x)
    torch.testing.assert_close(sums.products, x.transpose(1, 2) @ y)


def test_centred_sums_fit_an_intercept():
    x, y, kept = problem()
    normals = Normals(1, 6, 5, CPU)
    normals.update(x[None], y[None])
    sums = normals.compute(centred=True)
    weights = ridge(sums.gram[0], sums.products[0], kept, 0.0)
    with_ones = torch.cat([x, torch.ones(40, 1).double()], 1)
    expected = by_lstsq(with_ones, y, torch.cat([kept, torch.ones(5, 1, dtype=torch.bool)], 1))
    torch.testing.assert_close(weights, expected[:, :-1])
    torch.testing.assert_close(sums.mean_y[0, 0] - weights @ sums.mean_x[0, 0], expected[:, -1])


def test_samples_of_low_precision_are_multiplied_in_a_higher_one():
    x, y = torch.full((1, 3, 1), 300.0).half(), torch.ones(1, 3, 1).half()  # the square is beyond float16
    normals = Normals(1, 1, 1, CPU)
    normals.update(x, y)
    assert normals.compute(centred=False).gram.item() == 270000.0


def test_a_large_mean_costs_no_digits_of_the_deviations():
    x, y = torch.randn(1, 4000, 3), torch.randn(1, 4000, 2)
    normals = Normals(1, 3, 2, CPU)
    far_x, far_y = x + 3000, y - 5000
    for part_x, part_y in zip(far_x.split(500, 1), far_y.split(500, 1), strict=True):
        normals.update(part_x, part_y)
    sums = normals.compute(centred=True)
    x, y = (far - far.mean(1, keepdim=True) for far in (far_x.double(), far_y.double()))
    torch.testing.assert_close(sums.gram, x.transpose(1, 2) @ x, rtol=1e-5, atol=0.01)
    torch.testing.assert_close(sums.products, x.transpose(1, 2) @ y, rtol=1e-5, atol=0.01)


def test_memory_does_not_grow_with_the_samples():
    normals = Normals(2, 4, 3, CPU)
    for _ in range(5):
        normals.update(torch.randn(2, 100, 4), torch.randn(2, 100, 3))
        held = [value for value in vars(normals).values() if isinstance(value, torch.Tensor)]
        assert [value.shape for value in held] == [(2, 5, 8)]


def test_no_samples_give_zeros():
    sums = Normals(1, 2, 2, CPU).compute(centred=True)
    assert not any(bool(part.any()) for part in sums)


def test_rows_of_one_mask_are_solved_together_as_alone():
    torch.manual_seed(0)
    x = torch.randn(50, 8, dtype=torch.float64)
    gram, products = x.T @ x, torch.randn(8, 6, dtype=torch.float64)
    mask, other = torch.rand(8) > 0.5, torch.rand(8) > 0.5
    kept = torch.stack([mask, other, mask, torch.ones(8, dtype=torch.bool), mask, torch.zeros(8, dtype=torch.bool)])
    together = ridge(gram, products, kept, 0.1)
    for row in range(6):
        alone = ridge(gram, products[:, row : row + 1], kept[row : row + 1], 0.1)
        torch.testing.assert_close(together[row], alone[0])


def test_nothing_is_fitted_to_the_rounding_of_a_constant_input():
    torch.manual_seed(0)
    x, y = torch.randn(1, 400, 3), torch.randn(1, 400, 2)
    x[..., 1] = 7.0 + 1e-6 * torch.randn(400)
    normals = Normals(1, 3, 2, torch.device("cpu"))
    normals.update(x, y)
    sums = normals.compute(centred=True)
    change = ridge(sums.gram[0], sums.products[0], torch.ones(2, 3, dtype=torch.bool), strength=0.0)
    assert not change[:, 1].any()
    kept = Normals(1, 2, 2, torch.device("cpu"))
    kept.update(x[..., [0, 2]], y)
    without = kept.compute(centred=True)
    expected = ridge(without.gram[0], without.products[0], torch.ones(2, 2, dtype=torch.bool), strength=0.0)
    assert torch.allclose(change[:, [0, 2]], expected)
