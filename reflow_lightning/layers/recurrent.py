"""Torch's recurrent layers and cells: their maps are the pre-activations of their gates."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from reflow_lightning.layers.affine import AffineMap, Stage
from reflow_lightning.layers.layer import (
    Energies,
    Layer,
    NotSupportedError,
    Weight,
    check_as_in_torch,
    squares,
    writable,
    writable_of,
)
from reflow_lightning.layers.registry import layer_of
from reflow_lightning.layers.steps import Steps
from reflow_lightning.running.compat.torch import recurrent_weights
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


class RecurrentLayer(Layer):
    """A layer of one or several cells, each with an input matrix, a recurrent matrix and its `gates` as maps.

    A subclass says what its cells are (`cells`) and what they see in a call (`states`).

    Attributes:
        matrices: Of each cell the names of its input matrix and of its recurrent matrix.
    """

    feeds_back: ClassVar[bool] = True
    matrices: tuple[tuple[str, str], ...] = (("weight_ih", "weight_hh"),)
    module: Any

    @property
    def cells(self) -> list[tuple[AffineMap, ...]]:
        """The maps of each cell.

        Raises:
            NotSupportedError: If they can't be written.
        """
        raise NotSupportedError(f"{type(self.module).__name__} is not registered with layer_of")

    def states(self, call: Call) -> list[tuple[Tensor, Tensor]]:
        """Of each cell the inputs x and the states h before them, each of shape (steps and samples, size).

        Raises:
            NotSupportedError: If the layer does not tell them.
            ValueError: If they can't be seen in such a call.
        """
        raise NotSupportedError(f"{type(self.module).__name__} is not registered with layer_of")

    @property
    def weights(self) -> tuple[Weight, ...]:  # type: ignore[override]
        """Both matrices of each cell."""
        return tuple(Weight(name) for pair in self.matrices for name in pair)

    @property
    def maps(self) -> tuple[AffineMap, ...]:
        """The maps of all cells."""
        return tuple(affine for cell in self.cells for affine in cell)

    @property
    def dim(self) -> int | None:
        """The output is a state, not the y of a map."""
        return None

    @cached_property
    def stages(self) -> tuple[Stage, ...]:  # type: ignore[override]
        """Cell by cell, first with the inputs of the dense network."""
        starts = [sum(map(len, self.cells[:i])) for i in range(len(self.cells))]
        return tuple(
            Stage(tuple(range(start, start + len(cell))), dense_inputs)
            for start, cell in zip(starts, self.cells, strict=True)
            for dense_inputs in (True, False)
        )

    @property
    def sees_inputs(self) -> bool:
        """Whether the subclass knows the states."""
        return type(self).states is not RecurrentLayer.states

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

    def energies(self, call: Call) -> Energies:
        """See `Layer`."""
        for (of_input, of_state), (x, h) in zip(self.matrices, self.states(call), strict=True):
            yield of_input, squares(x)
            yield of_state, squares(h)


class CellLayer(RecurrentLayer):
    """An `RNNCell`, `GRUCell` or `LSTMCell`, called once a step."""

    @property
    def cells(self) -> list[tuple[AffineMap, ...]]:
        """The cell alone."""
        check_as_in_torch(self.module)
        kind = type(self.module).__name__.removesuffix("Cell")
        weights = writable(self.module, "weight_ih"), writable(self.module, "weight_hh")
        return [gates(kind, self.name, *weights, writable_of(self.module, "bias_ih", "bias_hh"))]

    def states(self, call: Call) -> list[tuple[Tensor, Tensor]]:
        """The arguments of the cell; without a state it is zero."""
        x, h = call.argument(0, "input"), call.argument(1, "hx")
        x = x.reshape(-1, x.shape[-1])
        h = h[0] if h is not None and isinstance(self.module, nn.LSTMCell) else h
        size = self.module.hidden_size
        return [(x, x.new_zeros(len(x), size) if h is None else h.reshape(-1, size))]


class StackedLayer(RecurrentLayer):
    """An `RNN`, `GRU` or `LSTM` over whole sequences, of any number of layers and both directions."""

    def __init__(self, module: nn.Module, name: str = "") -> None:
        super().__init__(module, name)
        self.time_first = not self.module.batch_first
        self.kind = self.module.mode.partition("_")[0]
        directions = ("", "_reverse") if self.module.bidirectional else ("",)
        self.suffixes = [f"l{layer}{direction}" for layer in range(self.module.num_layers) for direction in directions]
        self.matrices = tuple((f"weight_ih_{suffix}", f"weight_hh_{suffix}") for suffix in self.suffixes)

    @property
    def weights(self) -> tuple[Weight, ...]:  # type: ignore[override]
        """Both matrices of each layer and direction, and the projection that an LSTM may have."""
        names = recurrent_weights(self.module)
        return tuple(Weight(name) for name in names if name.startswith("weight_"))

    @property
    def cells(self) -> list[tuple[AffineMap, ...]]:
        """Layer by layer, direction by direction."""
        check_as_in_torch(self.module)
        if self.module.proj_size:
            raise NotSupportedError("an LSTM with proj_size")
        found = []
        for suffix, pair in zip(self.suffixes, self.matrices, strict=True):
            w, u = (writable(self.module, matrix) for matrix in pair)
            biases = writable_of(self.module, f"bias_ih_{suffix}", f"bias_hh_{suffix}")
            found.append(gates(self.kind, f"{self.name}.{suffix}", w, u, biases))
        return found

    def states(self, call: Call) -> list[tuple[Tensor, Tensor]]:
        """Run layer by layer and direction by direction, since the module gives the states of its last layer only.

        Of a packed sequence, the steps that it holds, and no padding.
        """
        if self.module.proj_size:
            raise NotSupportedError("an LSTM with proj_size")
        x, order, first = self._steps(call)
        samples, size = order.sizes[0], self.module.hidden_size
        found = []
        sides = 2 if self.module.bidirectional else 1
        for layer in range(self.module.num_layers):
            results = []
            for side in range(sides):
                place = layer * sides + side
                steps = x[order.reversal] if side else x
                start = [h[place] for h in first] or [x.new_zeros(samples, size)] * (1 + (self.kind == "LSTM"))
                result = self._run(self.suffixes[place], steps, order, start)
                found.append((steps, torch.cat([start[0], result])[order.before]))
                results.append(result[order.reversal] if side else result)
            x = torch.cat(results, dim=-1)
        return found

    def _steps(self, call: Call) -> tuple[Tensor, Steps, list[Tensor]]:
        """All steps of all sequences, where each stands, and the first states of each cell, if they are given."""
        x, given = call.argument(0, "input"), call.argument(1, "hx")
        first = [] if given is None else [given[0], given[1]] if self.kind == "LSTM" else [given]
        if isinstance(x, PackedSequence):
            if x.sorted_indices is not None:
                first = [h[:, x.sorted_indices] for h in first]
            return x.data, Steps.of(x.batch_sizes.to(x.data.device)), first
        if x.ndim == 2:
            x, first = x[:, None], [h[:, None] for h in first]
        elif self.module.batch_first:
            x = x.transpose(0, 1)
        sizes = torch.full((x.shape[0],), x.shape[1], device=x.device)
        return x.reshape(-1, x.shape[-1]), Steps.of(sizes), first

    def _run(self, suffix: str, steps: Tensor, order: Steps, start: list[Tensor]) -> Tensor:
        """The states after each step of one layer in one direction."""
        kind = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}[self.kind]
        extra = {"nonlinearity": self.module.nonlinearity} if self.kind == "RNN" else {}
        single = kind(steps.shape[-1], self.module.hidden_size, bias=self.module.bias, device="meta", **extra)
        names = [name for name, _ in single.named_parameters()]
        values = {name: writable(self.module, name.replace("l0", suffix)) for name in names}
        states = [h[None].contiguous() for h in start]
        even = order.sizes[0] == order.sizes[-1]  # where no sequence ends early, tensors are faster
        x = (
            steps.view(len(order.sizes), order.sizes[0], -1)
            if even
            else PackedSequence(steps, torch.tensor(order.sizes))
        )
        given = (x, states[0] if self.kind != "LSTM" else tuple(states))
        output: Any = torch.func.functional_call(single, values, given)[0]
        result: Tensor = output.flatten(0, 1) if even else output.data
        return result


for _kind in (nn.RNNCell, nn.GRUCell, nn.LSTMCell):
    layer_of.register(_kind, CellLayer)
layer_of.register(nn.RNNCellBase, RecurrentLayer)
layer_of.register(nn.RNNBase, StackedLayer)
