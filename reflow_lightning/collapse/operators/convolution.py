"""Convolutions of one to three dimensions, and transposed ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from reflow_lightning.collapse.edits import parameter_like
from reflow_lightning.collapse.operators.affine import Affine, affine
from reflow_lightning.running.compat.torch import convolve


class Convolution(Affine):
    """A convolution with any stride, padding, dilation and groups: its channels are dimension 1."""

    modules: Mapping[str, str] = {"Conv1d": "conv", "Conv2d": "conv", "Conv3d": "conv"}

    def channel_dim(self, ndim: int) -> int:
        """See `Operator`."""
        return 1

    def is_batched(self, module: Any, ndim: int) -> bool:
        """See `Affine`."""
        return bool(ndim == module.weight.ndim)

    def groups(self, module: Any) -> int:
        """See `Affine`."""
        return int(module.groups)

    def is_uneven(self, module: Any) -> bool:
        """See `Affine`."""
        padding = module.padding
        pads = padding != "valid" if isinstance(padding, str) else any(padding)
        return pads and module.padding_mode == "zeros"

    def resize(self, module: Any) -> None:
        """See `Affine`."""
        module.out_channels = module.weight.shape[0]
        module.in_channels = module.weight.shape[1] * module.groups

    def applied(self, module: Any, values: Tensor, weight: Tensor) -> Tensor:
        """See `Affine`."""
        if module.groups == 1:
            used = values.transpose(0, 1).flatten(1).any(1)
            used[0] = True  # a convolution wants one
            values, weight = values[:, used], weight[:, used]
        return convolve(module, values, weight)

    def merge(self, one: Any, two: Any) -> nn.Module | str:
        """One of size ``j + (k - 1) s`` in the place of two of sizes j and k, where the first has stride s.

        If the second pads with zeros, its border sees zeros where the first would have put out something else: then
        there is no such layer, unless the first is 1x1 without a bias.
        """
        (weight, bias), (weight2, bias2) = affine(one), affine(two)
        weight, weight2 = _dense(weight, one), _dense(weight2, two)
        if isinstance(one.padding, str) or isinstance(two.padding, str):
            return "padding given by name"
        if (one.padding_mode, two.padding_mode) != ("zeros", "zeros"):
            return "padding that is not with zeros"
        points, points2 = set(one.kernel_size) == {1}, set(two.kernel_size) == {1}
        if any(two.padding) and (not points or any(one.padding) or bool(bias.any())):
            return "zero padding between them"
        dims = range(len(one.stride))
        kind, transposed = _CONVOLUTIONS[len(one.stride)]
        steps, dilation = [1] * len(dims), [1] * len(dims)
        if points2:
            dilation = one.dilation
        elif points:
            dilation = [two.dilation[d] * one.stride[d] for d in dims]
        else:
            steps = [two.dilation[d] * one.stride[d] for d in dims]
        spacing = 1 if points or points2 else one.dilation
        # y[n] = sum_b V[b] sum_a W[a] x[n s s' + b s + a]: the kernels convolved, the second with its taps s apart
        merged = transposed(weight2, weight, stride=tuple(steps), dilation=spacing)
        layer: Any = kind(
            merged.shape[1],
            merged.shape[0],
            tuple(merged.shape[2:]),
            stride=tuple(one.stride[d] * two.stride[d] for d in dims),
            padding=tuple(one.padding[d] + two.padding[d] * one.stride[d] for d in dims),
            dilation=tuple(dilation),
            device="meta",
        )
        layer.weight = parameter_like(merged, one.weight)
        total = weight2.flatten(2).sum(2) @ bias + bias2
        layer.bias = parameter_like(total, one.weight) if total.any() else None
        merged_layer: nn.Module = layer.eval()
        return merged_layer


class TransposedConvolution(Convolution):
    """A transposed convolution with any stride, padding, dilation and groups; its weight has the input channels first.

    The taps that reach a position differ from one to the next, at the border and by the stride.
    """

    modules: Mapping[str, str] = {f"ConvTranspose{n}d": "conv_transpose" for n in (1, 2, 3)}

    def is_uneven(self, module: Any) -> bool:
        """See `Affine`."""
        return {*module.kernel_size, *module.stride} != {1} or any((*module.padding, *module.output_padding))

    def rows(self, weight: Tensor, module: Any) -> Tensor:
        """See `Affine`."""
        return _turned(weight, module.groups)

    def laid_out(self, rows: Tensor, module: Any) -> Tensor:
        """See `Affine`."""
        return _turned(rows, module.groups)

    def resize(self, module: Any) -> None:
        """See `Affine`."""
        module.in_channels = module.weight.shape[0]
        module.out_channels = module.weight.shape[1] * module.groups

    def applied(self, module: Any, values: Tensor, weight: Tensor) -> Tensor:
        """See `Affine`."""
        _, transposed = _CONVOLUTIONS[weight.ndim - 2]
        options = {name: getattr(module, name) for name in ("stride", "padding", "output_padding", "dilation")}
        found: Tensor = transposed(values, _turned(weight, module.groups), groups=module.groups, **options)
        return found

    def merge(self, one: Any, two: Any) -> nn.Module | str:
        """None."""
        return "transposed convolutions are not merged"


def _turned(weight: Tensor, groups: int) -> Tensor:
    """A weight with the input and the output channels of each group exchanged."""
    by_group = weight.reshape(groups, -1, *weight.shape[1:])
    return by_group.transpose(1, 2).reshape(-1, by_group.shape[1], *weight.shape[2:])


_CONVOLUTIONS: Mapping[int, tuple[type[nn.Module], Any]] = {
    1: (nn.Conv1d, functional.conv_transpose1d),
    2: (nn.Conv2d, functional.conv_transpose2d),
    3: (nn.Conv3d, functional.conv_transpose3d),
}


def _dense(weight: Tensor, layer: Any) -> Tensor:
    """The weight of a convolution without groups that does the same."""
    if layer.groups == 1:
        return weight
    out, ins = len(weight) // layer.groups, weight.shape[1]
    dense = weight.new_zeros(len(weight), ins * layer.groups, *weight.shape[2:])
    for group in range(layer.groups):
        rows = slice(group * out, (group + 1) * out)
        dense[rows, group * ins : (group + 1) * ins] = weight[rows]
    return dense
