import pytest
import torch

from reflow_lightning.experiments.models.fastgrnn import FastGRNN, FastGRNNCell
from reflow_lightning.pruning import select

RANKS = pytest.mark.parametrize("ranks", [(None, None), (3, None), (None, 4), (3, 4)])


def matrices(cell):
    """W and U, multiplied out."""
    weights = []
    for weight, columns in ((cell.weight_ih, cell.input_size), (cell.weight_hh, cell.hidden_size)):
        full = tuple(weight.shape) == (cell.hidden_size, columns)
        weights.append(weight if full else weight[: cell.hidden_size] @ weight[cell.hidden_size :].T)
    return weights


def step_by_step(cell, sequence):
    """The published equations, one sequence and one step at a time."""
    w, u = matrices(cell)
    h = torch.zeros(cell.hidden_size, dtype=sequence.dtype)
    for x in sequence:
        z = torch.sigmoid(w @ x + u @ h + cell.bias_z)
        c = torch.tanh(w @ x + u @ h + cell.bias_h)
        h = (torch.sigmoid(cell.zeta) * (1 - z) + torch.sigmoid(cell.nu)) * c + z * h
    return h


def cell_of(ranks):
    torch.manual_seed(0)
    cell = FastGRNNCell(5, 6, *ranks).double()
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return cell


@RANKS
def test_the_published_equations(ranks):
    cell = cell_of(ranks)
    sequences = torch.randn(3, 11, 5, dtype=torch.float64)
    expected = torch.stack([step_by_step(cell, sequence) for sequence in sequences])
    torch.testing.assert_close(cell(sequences), expected, rtol=1e-12, atol=1e-12)


def test_a_state_is_carried_on():
    cell = cell_of((3, 4))
    sequences = torch.randn(2, 8, 5, dtype=torch.float64)
    torch.testing.assert_close(cell(sequences[:, 3:], cell(sequences[:, :3])), cell(sequences))


def test_the_gates_start_as_published():
    cell = FastGRNNCell(5, 6)
    assert cell.bias_z.tolist() == cell.bias_h.tolist() == [1.0] * 6
    assert (cell.zeta.item(), cell.nu.item()) == (1.0, -4.0)


@pytest.mark.parametrize("name", ["weight_ih", "weight_hh"])
def test_a_dropped_column_is_a_dropped_rank_component(name):
    cell, smaller = cell_of((3, 4)), cell_of((2, 4) if name == "weight_ih" else (3, 3))
    smaller.load_state_dict({**cell.state_dict(), name: getattr(cell, name).detach()[:, 1:]})
    with torch.no_grad():
        getattr(cell, name)[:, 0] = 0
    sequences = torch.randn(2, 7, 5, dtype=torch.float64)
    torch.testing.assert_close(cell(sequences), smaller(sequences))


@RANKS
def test_every_parameter_has_a_gradient(ranks):
    model = FastGRNN(5, 2, 6, *ranks)
    model(torch.randn(3, 11, 5)).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_gradients_are_those_of_the_equations():
    cell = cell_of((3, 4))
    sequences = torch.randn(2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(cell, (sequences,))


def test_its_matrices_are_prunable_and_nothing_else_of_the_cell():
    assert list(select(FastGRNN(9, 2, rank_w=9, rank_u=80))) == ["cell.weight_ih", "cell.weight_hh", "head.weight"]


def test_sizes_with_and_without_ranks():
    full, factored = FastGRNNCell(9, 80), FastGRNNCell(9, 80, rank_w=8, rank_u=9)
    assert sum(p.numel() for p in full.parameters()) == 80 * 9 + 80 * 80 + 2 * 80 + 2
    assert sum(p.numel() for p in factored.parameters()) == 8 * 89 + 9 * 160 + 2 * 80 + 2
