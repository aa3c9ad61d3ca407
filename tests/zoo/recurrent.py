"""Recurrent layers, and cells that a network calls itself."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from reflow_lightning.experiments.models.fastgrnn import FastGRNN
from zoo.registry import SEQUENCES, register


class Recurrent(nn.Module):
    """A recurrent layer, and a linear one on its last step."""

    def __init__(self, kind: type[nn.RNNBase], inputs: int = 8, width: int = 6, **options: Any) -> None:
        super().__init__()
        self.cells = kind(inputs, width, batch_first=True, **options)
        self.head = nn.Linear(width * (1 + self.cells.bidirectional), 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x)[0][:, -1])


class Stepwise(nn.Module):
    """A cell that is called once a step."""

    def __init__(self, kind: type[nn.RNNCellBase]) -> None:
        super().__init__()
        self.cell, self.head = kind(8, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


def deep_lstm() -> nn.Module:
    return Recurrent(nn.LSTM, num_layers=2, bidirectional=True)


register("rnn", lambda: Recurrent(nn.RNN), SEQUENCES, tags=("repair",))
register("gru", lambda: Recurrent(nn.GRU), SEQUENCES, tags=("repair",))
register("lstm", deep_lstm, SEQUENCES, tags=("repair",))
register("gru_cell", lambda: Stepwise(nn.GRUCell), SEQUENCES, tags=("repair",))
register("lstm_cell", lambda: Stepwise(nn.LSTMCell), SEQUENCES, tags=("repair",))
register("fastgrnn", lambda: FastGRNN(8, 3, hidden_size=6), SEQUENCES, tags=("repair",))
register("small_gru", lambda: Recurrent(nn.GRU, 3, 4), (5, 3), tags=("classifier",))
register("small_lstm", lambda: Recurrent(nn.LSTM, 3, 4), (5, 3), tags=("classifier",))
