"""Linear layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from reflow_lightning.collapse.edits import parameter_like
from reflow_lightning.collapse.operators.affine import Affine, affine


class Linear(Affine):
    """`torch.nn.Linear`: its channels are the last dimension."""

    modules: Mapping[str, str] = {"Linear": "linear"}

    def channel_dim(self, ndim: int) -> int:
        """See `Operator`."""
        return ndim - 1

    def is_batched(self, module: Any, ndim: int) -> bool:
        """See `Affine`."""
        return ndim > 1

    def resize(self, module: Any) -> None:
        """See `Affine`."""
        module.out_features, module.in_features = module.weight.shape

    def applied(self, module: Any, values: Tensor, weight: Tensor) -> Tensor:
        """See `Affine`."""
        used = values.flatten(0, -2).any(0)  # most are zero: then there is little to multiply
        return functional.linear(values[..., used], weight[:, used])

    def merge(self, one: Any, two: Any) -> nn.Module | str:
        """See `Affine`."""
        (weight, bias), (weight2, bias2) = affine(one), affine(two)
        merged = nn.Linear(weight.shape[1], len(weight2), device="meta")
        merged.weight = parameter_like(weight2 @ weight, one.weight)
        total = weight2 @ bias + bias2
        merged.bias = parameter_like(total, one.weight) if total.any() else None  # type: ignore[assignment]
        return merged.eval()


class TransposedLinear(Linear):
    """The ``Conv1D`` of GPT-2 in transformers: a linear layer whose weight is (inputs, outputs)."""

    modules: Mapping[str, str] = {"Conv1D": "transposed_linear"}
    packages: tuple[str, ...] = ("transformers.",)

    def rows(self, weight: Tensor, module: Any) -> Tensor:
        """See `Affine`."""
        return weight.T

    def laid_out(self, rows: Tensor, module: Any) -> Tensor:
        """See `Affine`."""
        return rows.T.contiguous()

    def resize(self, module: Any) -> None:
        """See `Affine`."""
        module.nx, module.nf = module.weight.shape
