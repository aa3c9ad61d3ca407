"""A plain SparseGPT (arXiv 2301.00774) of one layer against "reconstruct" at the mask that it has chosen."""

import pytest
import torch
from torch import Tensor, nn

from reflow_lightning import calibrate


def sparsegpt(weight: Tensor, inputs: Tensor, sparsity: float, block: int = 16, damping: float = 0.01) -> Tensor:
    """The weights that the paper's algorithm leaves.

    Column by column, from the left; what goes in a column is made up for by the columns to its right. Which weights go
    is decided at the beginning of each block of columns.
    """
    weight, columns = weight.clone(), weight.shape[1]
    hessian = inputs.T @ inputs
    hessian += damping * hessian.diagonal().mean() * torch.eye(columns, dtype=weight.dtype)
    inverse = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        worth = (weight[:, start:stop] / inverse.diagonal()[start:stop]).square()
        goes = worth <= worth.flatten().kthvalue(int(sparsity * worth.numel())).values
        for column in range(start, stop):
            lost = torch.where(goes[:, column - start], weight[:, column], 0.0) / inverse[column, column]
            weight[:, column:] -= lost[:, None] * inverse[column, column:]
        weight[:, start:stop][goes] = 0
    return weight


def correlated(samples: int, inputs: int, seed: int) -> Tensor:
    """Few directions carry most of the inputs, as in trained networks."""
    mixing = (
        torch.randn(inputs, inputs, generator=torch.Generator().manual_seed(1)) / torch.arange(1, inputs + 1) ** 0.5
    )
    return torch.randn(samples, inputs, generator=torch.Generator().manual_seed(seed)) @ mixing.T


@pytest.mark.parametrize("sparsity", [0.5, 0.7, 0.9])
def test_at_the_same_mask_reconstruct_leaves_no_more_of_the_error_than_a_plain_sparsegpt(sparsity):
    dense, inputs, others = nn.Linear(64, 48, bias=False), correlated(512, 64, seed=2), correlated(512, 64, seed=3)
    weight = dense.weight.detach()
    theirs = sparsegpt(weight.double(), inputs.double(), sparsity).float()
    mask = theirs != 0
    assert mask.float().mean() == pytest.approx(1 - sparsity, abs=0.01)

    pruned = nn.Linear(64, 48, bias=False)
    with torch.no_grad():
        pruned.weight.copy_(weight * mask)

    def error(found: Tensor, x: Tensor) -> float:
        return float(((found - weight) @ x.T).square().sum() / (weight @ x.T).square().sum())

    before = error(pruned.weight, inputs)
    calibrate(pruned, list(inputs.split(128)), repair="reconstruct", reference=dense, max_batches=4, progress=False)
    ours = pruned.weight.detach()
    assert torch.equal(ours != 0, mask)
    assert error(ours, inputs) <= error(theirs, inputs) < before
    assert error(ours, others) <= 1.02 * error(theirs, others)  # nor on inputs that neither has seen


def test_the_plain_sparsegpt_changes_nothing_where_inputs_are_independent():
    weight, inputs = torch.randn(4, 32).double(), torch.eye(32).double()
    found = sparsegpt(weight, inputs, 0.5)
    torch.testing.assert_close(found, weight * (found != 0))
