"""Linear layers and 1x1 convolutions that hold the non-zeros of their weight alone, in compressed rows (CSR)."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from reflow_lightning.cost.stand_in import StandIn

_ROWS = 64
"""So many rows of inputs are multiplied at once: what the weight picks from them stays in the processor's cache."""

_POSITIONS = 256
"""The same for the positions of an image, which lie side by side in memory."""

_FEW = 2**31
"""Below, positions are numbered in four bytes, as the kernels have them."""


def multiply(weight: Tensor, bias: Tensor | None, columns: Tensor) -> Tensor:
    """A sparse matrix times a dense one, plus a bias for each row.

    Args:
        weight: CSR tensor (outputs, inputs).
        bias: Tensor (outputs), or ``None``.
        columns: Dense tensor (inputs, N).

    Returns:
        Dense tensor (outputs, N).

    Example:
        >>> multiply(torch.eye(2).to_sparse_csr(), torch.tensor([0.0, 1.0]), torch.ones(2, 1))
        tensor([[1.],
                [2.]])
    """
    return weight @ columns if bias is None else torch.addmm(bias[:, None], weight, columns)


class SparseLayer(nn.Module):
    """What sparse layers have in common. The weight is a constant: no parameter, and no gradient is computed for it.

    Gradients flow to the inputs and to the bias. The state dictionary has the dense layer's form, so that each loads
    the other's; the sign of a zero is not kept. Under autocast the layer calculates in the type of its weight, since
    torch multiplies sparse matrices in no narrow type.

    Args:
        weight: The dense weight. Each slice along ``outputs`` makes one output.
        bias: The bias (outputs), or ``None``.
        outputs: The dimension of the weight that runs along the outputs.

    Attributes:
        shape: Of the dense weight.
        rows: Where each output begins among the non-zeros.
        columns: The input of each non-zero.
        values: The non-zeros.
    """

    rows: Tensor
    columns: Tensor
    values: Tensor
    bias: nn.Parameter | None

    def __init__(self, weight: Tensor, bias: nn.Parameter | None, outputs: int = 0) -> None:
        super().__init__()
        self.shape, self._outputs = weight.shape, outputs
        self.register_parameter("bias", bias)
        for name, values in compressed_rows(weight.detach().movedim(outputs, 0).flatten(1)).items():
            self.register_buffer(name, values, persistent=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the first CSR tensor of a process is said to be in beta
            self.sparse()
        self.register_state_dict_post_hook(_write_dense)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_read_dense)  # type: ignore[no-untyped-call]

    def sparse(self) -> Tensor:
        """The weight as a CSR tensor (outputs, inputs); it shares the memory of the buffers."""
        return torch.sparse_csr_tensor(self.rows, self.columns, self.values, self._matrix, check_invariants=False)

    def dense(self) -> Tensor:
        """The weight as the dense layer has it; computed anew."""
        inner = [size for dim, size in enumerate(self.shape) if dim != self._outputs]
        matrix = self.sparse().to_dense()
        return matrix.view(len(matrix), *inner).movedim(0, self._outputs).contiguous()

    @property
    def weight(self) -> Tensor:
        """Stands for the dense weight where other code asks for it; see `StandIn`."""
        return StandIn.of(self.values, self.shape, self.dense)

    def extra_repr(self) -> str:
        """What a printed network shows of the layer."""
        outputs, inputs = self._matrix
        return f"{inputs}, {outputs}, density={len(self.values) / max(1, outputs * inputs):.3f}"

    @property
    def _matrix(self) -> tuple[int, int]:
        outputs = self.shape[self._outputs]
        return outputs, self.shape.numel() // max(1, outputs)

    def _own_type(self, inputs: Tensor) -> AbstractContextManager[Any]:
        device = inputs.device.type
        return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


class SparseLinear(SparseLayer):
    """Takes the place of `torch.nn.Linear`, and of the ``Conv1D`` of transformers with ``outputs=1``.

    Example:
        >>> linear = nn.Linear(4, 2)
        >>> sparse, x = SparseLinear(linear.weight, linear.bias), torch.randn(3, 4)
        >>> torch.allclose(sparse(x), linear(x), atol=1e-6), sparse
        (True, SparseLinear(4, 2, density=1.000))
    """

    def __init__(self, weight: Tensor, bias: nn.Parameter | None, outputs: int = 0) -> None:
        super().__init__(weight, bias, outputs)
        self.out_features, self.in_features = self._matrix

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (as torch calls it)
        """Multiply the last dimension."""
        with self._own_type(input):
            inputs, weight = input.to(self.values.dtype), self.sparse()
            rows = inputs.reshape(-1, inputs.shape[-1])
            parts = [multiply(weight, self.bias, part.t()).t() for part in torch.split(rows, _ROWS)]
            return torch.cat(parts).view(*inputs.shape[:-1], self.out_features)


class SparsePointwise(SparseLayer):
    """Takes the place of a 1x1 convolution without stride, padding and groups, in one to three dimensions.

    Example:
        >>> conv = nn.Conv2d(3, 5, 1)
        >>> sparse, x = SparsePointwise(conv.weight, conv.bias), torch.randn(2, 3, 4, 4)
        >>> torch.allclose(sparse(x), conv(x), atol=1e-6)
        True
    """

    def __init__(self, weight: Tensor, bias: nn.Parameter | None) -> None:
        super().__init__(weight, bias)
        self.out_channels, self.in_channels = self._matrix

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (as torch calls it)
        """Multiply the channels, of one image or of several."""
        rank = len(self.shape) - 2
        with self._own_type(input):
            inputs, weight = input.to(self.values.dtype), self.sparse()
            images = inputs.reshape(-1, *inputs.shape[-1 - rank :]).flatten(2)
            parts = [
                torch.cat([multiply(weight, self.bias, part) for part in torch.split(image, _POSITIONS, 1)], 1)
                for image in images
            ]
            outputs = torch.stack(parts) if parts else images.new_empty(0, self.out_channels, images.shape[-1])
            return outputs.view(*inputs.shape[: -1 - rank], self.out_channels, *inputs.shape[-rank:])


def compressed_rows(matrix: Tensor) -> dict[str, Tensor]:
    """The non-zeros of a matrix, row by row, with the column of each and where each row begins.

    Example:
        >>> compressed_rows(torch.tensor([[0.0, 7.0], [5.0, 0.0]]))
        {'rows': tensor([0, 1, 2], dtype=torch.int32), 'columns': tensor([1, 0], dtype=torch.int32), 'values': ...}
    """
    kept = matrix != 0
    index = torch.int32 if matrix.numel() < _FEW else torch.int64
    ends = kept.sum(1).cumsum(0)
    return {
        "rows": torch.cat([ends.new_zeros(1), ends]).to(index),
        "columns": kept.nonzero()[:, 1].to(index),
        "values": matrix[kept],
    }


def _write_dense(layer: SparseLayer, state: dict[str, Any], prefix: str, _: Any) -> None:
    state[f"{prefix}weight"] = layer.dense()


def _read_dense(layer: SparseLayer, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Take the weight out of a state that is loaded, since it is no parameter or buffer of the layer."""
    _, strict, missing, _, errors = rest
    weight = state.pop(f"{prefix}weight", None)
    if weight is None:
        missing += [f"{prefix}weight"] if strict else []
    elif weight.shape != layer.shape:
        errors.append(
            f"size mismatch for {prefix}weight: {tuple(weight.shape)} can't be loaded as {tuple(layer.shape)}"
        )
    else:
        matrix = weight.detach().to(layer.values).movedim(layer._outputs, 0).flatten(1)
        for name, values in compressed_rows(matrix).items():
            setattr(layer, name, values)
