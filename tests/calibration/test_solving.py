"""The rows of a layer's weight, shared out over processes and solved."""

import pytest
import torch

from reflow_lightning.calibration.least_squares import Normals, ridge
from reflow_lightning.calibration.solving import _share_of_changes
from reflow_lightning.running import world


def problem(groups, outputs, inputs):
    """Sums of a map, and weights of shape (groups, outputs, inputs)."""
    generator = torch.Generator().manual_seed(0)
    normals = Normals(groups, inputs, outputs, torch.device("cpu"))
    x, y = (torch.randn(groups, 50, n, generator=generator) for n in (inputs, outputs))
    normals.update(x, y)
    weights = torch.randn(groups, outputs, inputs, generator=generator, dtype=torch.float64)
    return normals.compute(centred=True), weights


def share_of(rank, size, monkeypatch, *arguments):
    monkeypatch.setattr(world, "rank", lambda: rank)
    monkeypatch.setattr(world, "world_size", lambda: size)
    return _share_of_changes(*arguments)


@pytest.mark.parametrize(("groups", "outputs"), [(1, 40), (12, 1), (3, 7)])
@pytest.mark.parametrize("size", [2, 3])
def test_the_shares_of_all_processes_are_what_one_solves(groups, outputs, size, monkeypatch):
    monkeypatch.setattr("reflow_lightning.calibration.least_squares._ELEMENTS", 40)  # few rows at once
    sums, old = problem(groups, outputs, inputs=6)
    choices = torch.rand(2, *old.shape, generator=torch.Generator().manual_seed(1)) > 0.5
    whole = _share_of_changes(sums, old, choices, 0.1)
    shares = [share_of(rank, size, monkeypatch, sums, old, choices, 0.1) for rank in range(size)]
    assert all(bool(share.any()) for share in shares)
    assert torch.equal(sum(shares), whole)  # to the last bit, so that all processes go on with equal weights
    for c, stays in enumerate(choices):
        for g in range(groups):
            start = torch.where(stays[g], old[g], 0.0)
            plain = ridge(sums.gram[g], sums.products[g] - sums.gram[g] @ start.T, stays[g], 0.1)
            torch.testing.assert_close(whole[c, g], plain)
