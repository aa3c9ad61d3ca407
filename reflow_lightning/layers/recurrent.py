"""The affine maps of torch's recurrent layers and cells: the pre-activations of their gates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from reflow_lightning.layers.affine import AffineMap, Layer, Stage
from reflow_lightning.layers.plain import NotSupportedError, as_in_torch, layer_of, plain, some
from reflow_lightning.running.hooks import Call


def gates(kind: str, name: str, w: Tensor, u: Tensor, biases: tuple[Tensor, ...]) -> tuple[AffineMap, ...]:
    """The pre-activations of a cell with the input matrix w, the recurrent matrix u and their biases, if any.

    Those of RNN and LSTM are ``W x + U h + b``. The candidate of a GRU, ``W x + b + r * (U h + b')``, has two.
    """
    if kind != "GRU":
        return (AffineMap(f"{name}.gates", len(w), (w, u), biases),)
    size = len(u) // 3
    both, last = slice(0, 2 * size), slice(2 * size, None)
    return (
        AffineMap(f"{name}.gates", 2 * size, (w[both], u[both]), tuple(b[both] for b in biases)),
        AffineMap(f"{name}.candidate_ih", size, (w[last],), tuple(b[last] for b in biases[:1])),
        AffineMap(f"{name}.candidate_hh", size, (u[last],), tuple(b[last] for b in biases[1:])),
    )


def gate_inputs(maps: int, index: int, x: Tensor, h: Tensor) -> Tensor:
    """What the map of that index of `gates` multiplies, from inputs and states of shape (samples, size)."""
    if maps == 1 or index == 0:
        return torch.cat([x, h], dim=1)
    return x if index == 1 else h


def preactivation(affine: AffineMap, inputs: Tensor) -> Tensor:
    """``W x + b`` of inputs of shape (samples, inputs)."""
    y = inputs @ affine.matrix().T
    for bias in affine.biases:
        y = y + bias
    return y


class RecurrentLayer(ABC):
    """Maps that share the inputs and the states over time of one or several cells.

    Args:
        maps: Of each cell, its `gates`.
    """

    dim = None
    feeds_back = True

    def __init__(self, cells: list[tuple[AffineMap, ...]]) -> None:
        self.cells = cells
        self.maps = tuple(affine for cell in cells for affine in cell)
        starts = [sum(map(len, cells[:i])) for i in range(len(cells))]
        self.stages = tuple(
            Stage(tuple(range(start, start + len(cell))), dense_inputs)
            for start, cell in zip(starts, cells, strict=True)
            for dense_inputs in (True, False)
        )

    @abstractmethod
    def states(self, call: Call) -> list[tuple[Tensor, Tensor]]:
        """Of each cell the inputs x and the states h before them, each of shape (steps and samples, size)."""

    def outputs(self, call: Call) -> list[Tensor]:
        """The pre-activations, computed anew from inputs and states."""
        return [
            preactivation(affine, gate_inputs(len(cell), index, x, h))
            for cell, (x, h) in zip(self.cells, self.states(call), strict=True)
            for index, affine in enumerate(cell)
        ]

    def inputs(self, index: int, call: Call) -> Iterator[Tensor]:
        """Every step is a sample."""
        places = [(number, place) for number, cell in enumerate(self.cells) for place in range(len(cell))]
        number, place = places[index]
        x, h = self.states(call)[number]
        yield gate_inputs(len(self.cells[number]), place, x, h)[None]


class CellLayer(RecurrentLayer):
    """An `RNNCell`, `GRUCell` or `LSTMCell`, called once a step."""

    def __init__(self, module: nn.RNNCellBase, name: str) -> None:
        self.module = module
        kind = type(module).__name__.removesuffix("Cell")
        weights = plain(module, "weight_ih"), plain(module, "weight_hh")
        super().__init__([gates(kind, name, *weights, some(module, "bias_ih", "bias_hh"))])

    def states(self, call: Call) -> list[tuple[Tensor, Tensor]]:
        """The arguments of the cell; without a state it is zero."""
        x, h = call.argument(0, "input"), call.argument(1, "hx")
        x = x.reshape(-1, x.shape[-1])
        h = h[0] if isinstance(h, tuple) else h
        size = self.module.hidden_size
        return [(x, x.new_zeros(len(x), size) if h is None else h.reshape(-1, size))]


class StackedLayer(RecurrentLayer):
    """An `RNN`, `GRU` or `LSTM` over whole sequences, of any number of layers and both directions."""

    def __init__(self, module: nn.RNNBase, name: str) -> None:
        if module.proj_size:
            raise NotSupportedError("an LSTM with proj_size")
        self.module = module
        self.kind = module.mode.partition("_")[0]
        directions = ("", "_reverse") if module.bidirectional else ("",)
        self.suffixes = [f"l{layer}{direction}" for layer in range(module.num_layers) for direction in directions]
        cells = []
        for suffix in self.suffixes:
            weights = plain(module, f"weight_ih_{suffix}"), plain(module, f"weight_hh_{suffix}")
            biases = some(module, f"bias_ih_{suffix}", f"bias_hh_{suffix}")
            cells.append(gates(self.kind, f"{name}.{suffix}", *weights, biases))
        super().__init__(cells)

    def states(self, call: Call) -> list[tuple[Tensor, Tensor]]:
        """Run layer by layer and direction by direction, since the module gives the states of its last layer only."""
        x, first = call.argument(0, "input"), call.argument(1, "hx")
        if isinstance(x, PackedSequence):
            raise ValueError("a recurrent layer got a PackedSequence: calibrate with padded sequences")
        first = first[0] if isinstance(first, tuple) else first
        if x.ndim == 2:
            x, first = x[:, None], None if first is None else first[:, None]
        elif self.module.batch_first:
            x = x.transpose(0, 1)
        cells = call.argument(1, "hx")
        cells = cells[1] if isinstance(cells, tuple) else None
        found = []
        sides = 2 if self.module.bidirectional else 1
        for layer in range(self.module.num_layers):
            results = []
            for side in range(sides):
                place = layer * sides + side
                steps = x.flip(0) if side else x
                h0 = x.new_zeros(1, x.shape[1], self.module.hidden_size) if first is None else first[place][None]
                c0 = None if cells is None else cells[place].reshape(h0.shape)
                result = self._run(self.suffixes[place], steps, h0, c0)
                before = torch.cat([h0, result[:-1]])
                found.append((steps.reshape(-1, steps.shape[-1]), before.reshape(-1, before.shape[-1])))
                results.append(result.flip(0) if side else result)
            x = torch.cat(results, dim=-1)
        return found

    def _run(self, suffix: str, steps: Tensor, h0: Tensor, c0: Tensor | None) -> Tensor:
        """The states of one layer in one direction, of shape (steps, samples, size)."""
        kind = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}[self.kind]
        extra = {"nonlinearity": self.module.nonlinearity} if self.kind == "RNN" else {}
        single = kind(steps.shape[-1], self.module.hidden_size, bias=self.module.bias, device="meta", **extra)
        names = [name for name, _ in single.named_parameters()]
        values = {name: plain(self.module, name.replace("l0", suffix)) for name in names}
        state = h0 if self.kind != "LSTM" else (h0, torch.zeros_like(h0) if c0 is None else c0)
        output: Tensor = torch.func.functional_call(single, values, (steps, state))[0]
        return output


@layer_of.register(nn.RNNBase)
def _(module: nn.RNNBase, name: str) -> Layer:
    as_in_torch(module)
    return StackedLayer(module, name)


@layer_of.register(nn.RNNCell)
@layer_of.register(nn.GRUCell)
@layer_of.register(nn.LSTMCell)
def _(module: nn.RNNCell | nn.GRUCell | nn.LSTMCell, name: str) -> Layer:
    as_in_torch(module)
    return CellLayer(module, name)


@layer_of.register(nn.RNNCellBase)
def _(module: nn.RNNCellBase, name: str) -> Layer:
    raise NotSupportedError(f"{type(module).__name__} is not registered with layer_of")
