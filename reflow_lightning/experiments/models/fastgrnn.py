"""FastGRNN (arXiv 1901.02358): a gated recurrent cell whose two gates share one input and one recurrent matrix."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reflow_lightning.layers import AffineMap, Call, NotSupportedError, RecurrentLayer, layer_of, writable


class FastGRNNCell(nn.RNNCellBase):
    """The cell of FastGRNN.

    With the input x and the state h, W = ``weight_ih`` and U = ``weight_hh``::

        z  = sigmoid(W x + U h + b_z)
        c  = tanh(W x + U h + b_h)
        h' = (sigmoid(zeta) (1 - z) + sigmoid(nu)) * c + z * h

    With a rank, ``W = W1 W2'`` (or ``U = U1 U2'``), and the parameter holds W1 above W2: a rank component is one column
    of it, so that dropping a column lowers the rank by one.

    Args:
        input_size: Values a step.
        hidden_size: Length of the state.
        rank_w: Rank of W. ``None``: one full matrix (hidden_size, input_size), not factored.
        rank_u: Rank of U. ``None``: one full matrix (hidden_size, hidden_size), not factored.

    Example:
        >>> cell = FastGRNNCell(9, 80, rank_w=8, rank_u=9)
        >>> cell.weight_ih.shape, cell.weight_hh.shape
        (torch.Size([89, 8]), torch.Size([160, 9]))
    """

    def __init__(self, input_size: int, hidden_size: int, rank_w: int | None = None, rank_u: int | None = None) -> None:
        super().__init__(input_size, hidden_size, bias=False, num_chunks=1)
        for name, columns, rank in (("weight_ih", input_size, rank_w), ("weight_hh", hidden_size, rank_u)):
            shape = (hidden_size, columns) if rank is None else (hidden_size + columns, rank)
            setattr(self, name, nn.Parameter(0.1 * torch.randn(shape)))
        self.bias_z = nn.Parameter(torch.ones(hidden_size))
        self.bias_h = nn.Parameter(torch.ones(hidden_size))
        self.zeta = nn.Parameter(torch.tensor(1.0))
        self.nu = nn.Parameter(torch.tensor(-4.0))

    def project(self, values: Tensor, weight: Tensor) -> Tensor:
        """Multiply values (..., C) by W or U, factored or not: (..., hidden_size)."""
        if weight.shape == (self.hidden_size, values.shape[-1]):
            return values @ weight.T
        return values @ weight[self.hidden_size :] @ weight[: self.hidden_size].T

    def step(self, from_input: Tensor, state: Tensor) -> Tensor:
        """The next state (N, hidden_size) from ``W x`` and the state, both of that shape."""
        shared = from_input + self.project(state, self.weight_hh)
        z = torch.sigmoid(shared + self.bias_z)
        c = torch.tanh(shared + self.bias_h)
        return (torch.sigmoid(self.zeta) * (1 - z) + torch.sigmoid(self.nu)) * c + z * state

    def forward(self, sequences: Tensor, state: Tensor | None = None) -> Tensor:
        """The last state (N, hidden_size) after sequences (N, steps, input_size), from a state, zero at first."""
        if state is None:
            state = sequences.new_zeros(len(sequences), self.hidden_size)
        for from_input in self.project(sequences, self.weight_ih).unbind(1):  # all steps at once: the same, much faster
            state = self.step(from_input, state)
        return state


@layer_of.register(FastGRNNCell)
class FastGRNNLayer(RecurrentLayer):
    """The pre-activation ``W x + U h + b_z`` of a cell with full matrices; the other gate has b_h in place of b_z."""

    @property
    def cells(self) -> list[tuple[AffineMap, ...]]:
        """Both gates, which share one map."""
        size = self.module.hidden_size
        weights = writable(self.module, "weight_ih"), writable(self.module, "weight_hh")
        if [len(weight) for weight in weights] != [size, size]:
            raise NotSupportedError("a FastGRNN cell with factored matrices")
        biases, offsets = (writable(self.module, "bias_z"),), (writable(self.module, "bias_h"),)
        return [(AffineMap(f"{self.name}.gates", size, weights, biases, offsets),)]

    def states(self, call: Call) -> list[tuple[Tensor, Tensor]]:
        """The inputs of all steps, and the states before them."""
        sequences, state = call.argument(0, "sequences"), call.argument(1, "state")
        if len(self.module.weight_ih) != self.module.hidden_size:
            raise NotSupportedError("a FastGRNN cell with factored matrices")
        if state is None:
            state = sequences.new_zeros(len(sequences), self.module.hidden_size)
        before = []
        for from_input in self.module.project(sequences, self.module.weight_ih).unbind(1):
            before.append(state)
            state = self.module.step(from_input, state)
        return [(sequences.transpose(0, 1).flatten(0, 1), torch.cat(before))]


class FastGRNN(nn.Module):
    """A linear classifier on the last state of a FastGRNN cell that ran over a sequence.

    Args:
        input_size: Values a step.
        num_classes: Number of classes.
        hidden_size: Length of the state.
        rank_w: See `FastGRNNCell`.
        rank_u: See `FastGRNNCell`.

    Example:
        >>> FastGRNN(9, 2)(torch.zeros(4, 128, 9)).shape
        torch.Size([4, 2])
    """

    def __init__(
        self,
        input_size: int = 9,
        num_classes: int = 2,
        hidden_size: int = 80,
        rank_w: int | None = None,
        rank_u: int | None = None,
    ) -> None:
        super().__init__()
        self.cell = FastGRNNCell(input_size, hidden_size, rank_w, rank_u)
        self.head = nn.Linear(hidden_size, num_classes)

    def forward(self, sequences: Tensor) -> Tensor:
        """Map sequences (N, steps, input_size) to logits (N, num_classes)."""
        logits: Tensor = self.head(self.cell(sequences))
        return logits
