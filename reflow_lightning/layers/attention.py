"""The affine maps of `torch.nn.MultiheadAttention`: its projections, which it keeps as bare parameters."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call

from reflow_lightning.layers.affine import AffineMap, Layer, Stage
from reflow_lightning.layers.plain import NotSupportedError, as_in_torch, layer_of, plain, some
from reflow_lightning.running.hooks import Call


class AttentionLayer:
    """Projections of queries, keys and values, which act side by side, and that of the output."""

    dim = -1
    stages: tuple[Stage, ...] = (Stage((0, 1, 2)), Stage((3,)))
    feeds_back = False

    def __init__(self, module: nn.MultiheadAttention, name: str) -> None:
        self.module = module
        width = module.embed_dim
        if module.bias_k is not None:
            raise NotSupportedError("attention with add_bias_kv")
        rows = [slice(i * width, (i + 1) * width) for i in range(3)]
        if module.in_proj_weight is not None:
            weights = [plain(module, "in_proj_weight")[part] for part in rows]
        else:
            weights = [plain(module, f"{part}_proj_weight") for part in "qkv"]
        biases = [tuple(bias[part] for bias in some(module, "in_proj_bias")) for part in rows]
        out = module.out_proj
        self.maps = (
            *(
                AffineMap(f"{name}.{part}", width, (weight,), bias)
                for part, weight, bias in zip("qkv", weights, biases, strict=True)
            ),
            AffineMap(f"{name}.out_proj", width, (plain(out, "weight"),), some(out, "bias")),
        )

    def _projected(self, index: int, call: Call) -> Tensor:
        values = call.argument(index, ("query", "key", "value")[index])
        flat: Tensor = values.reshape(-1, values.shape[-1])
        return flat

    def outputs(self, call: Call) -> list[Tensor]:
        """The projections, computed anew, and the output."""
        found = []
        for index, projection in enumerate(self.maps[:3]):
            y = self._projected(index, call) @ projection.weights[0].T
            found.append(y + projection.biases[0] if projection.biases else y)
        return [*found, call.output[0].reshape(-1, self.module.embed_dim)]

    def inputs(self, index: int, call: Call) -> Iterator[Tensor]:
        """What is projected; for the output that is what the heads give, side by side."""
        yield (self._projected(index, call) if index < 3 else self._heads(call))[None]

    def _heads(self, call: Call) -> Tensor:
        """The module without its last projection."""
        weight = self.module.out_proj.weight
        replaced = {"out_proj.weight": torch.eye(len(weight)).to(weight)}
        if self.module.out_proj.bias is not None:
            replaced["out_proj.bias"] = torch.zeros_like(self.module.out_proj.bias)
        output = functional_call(
            _Unhooked(self.module), {f"module.{k}": v for k, v in replaced.items()}, call.args, dict(call.kwargs)
        )
        heads: Tensor = output[0].reshape(-1, len(weight))
        return heads


class _Unhooked(nn.Module):
    """Runs a module without its hooks."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.training = module.training

    def forward(self, *args: object, **kwargs: object) -> Tensor:
        """What the module gives."""
        output: Tensor = self.module.forward(*args, **kwargs)
        return output


@layer_of.register(nn.MultiheadAttention)
def _(module: nn.MultiheadAttention, name: str) -> Layer:
    as_in_torch(module)
    return AttentionLayer(module, name)
