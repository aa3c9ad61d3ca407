"""`torch.nn.MultiheadAttention`: its projections are linear maps, which it keeps as bare parameters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

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
from reflow_lightning.layers.padding import unmasked
from reflow_lightning.layers.registry import layer_of
from reflow_lightning.running.hooks import Call

_INPUTS = ("query", "key", "value")


class AttentionLayer(Layer):
    """Projections of queries, keys and values, which act side by side, and the projection of the output."""

    weights: tuple[Weight, ...] = tuple(
        map(Weight, ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"))
    )
    stages: tuple[Stage, ...] = (Stage((0, 1, 2)), Stage((3,)))
    module: Any

    def __init__(self, module: nn.Module, name: str = "") -> None:
        super().__init__(module, name)
        self.time_first = not self.module.batch_first

    @property
    def maps(self) -> tuple[AffineMap, ...]:
        """Queries, keys, values, output."""
        module, width = self.module, self.module.embed_dim
        check_as_in_torch(module)
        if module.bias_k is not None:
            raise NotSupportedError("attention with add_bias_kv")
        rows = [slice(i * width, (i + 1) * width) for i in range(3)]
        if module.in_proj_weight is not None:
            weights = [writable(module, "in_proj_weight")[part] for part in rows]
        else:
            weights = [writable(module, f"{part}_proj_weight") for part in "qkv"]
        biases = [tuple(bias[part] for bias in writable_of(module, "in_proj_bias")) for part in rows]
        out = module.out_proj
        return (
            *(
                AffineMap(f"{self.name}.{part}", width, (weight,), bias)
                for part, weight, bias in zip("qkv", weights, biases, strict=True)
            ),
            AffineMap(f"{self.name}.out_proj", width, (writable(out, "weight"),), writable_of(out, "bias")),
        )

    def _projected(self, index: int, call: Call) -> Tensor:
        return self._rows(call.argument(index, _INPUTS[index]), call, of_keys=index > 0)

    def _rows(self, values: Tensor, call: Call, of_keys: bool = False) -> Tensor:
        """Each position as a row, without those that the call says are padding."""
        mask = call.argument(3, "key_padding_mask")
        query, key = (call.argument(index, _INPUTS[index]) for index in range(2))
        if mask is not None and mask.ndim == 2 and (of_keys or query is key or _same(query, key)):
            valid = unmasked(mask) if self.module.batch_first else unmasked(mask).T
            return values[valid]
        return values.reshape(-1, values.shape[-1])

    def outputs(self, call: Call) -> list[Tensor]:
        """The projections, computed anew, and the output."""
        found = []
        for index, projection in enumerate(self.maps[:3]):
            y = self._projected(index, call) @ projection.weights[0].T
            found.append(y + projection.biases[0] if projection.biases else y)
        return [*found, self._rows(call.output[0], call)]

    def inputs(self, index: int, call: Call) -> Iterator[Tensor]:
        """What is projected; for the output that is what the heads give, side by side."""
        yield (self._projected(index, call) if index < 3 else self._heads(call))[None]

    def energies(self, call: Call) -> Energies:
        """See `Layer`."""
        energies = [squares(self._projected(index, call)) for index in range(3)]
        if self.module.in_proj_weight is None:
            yield from zip(("q_proj_weight", "k_proj_weight", "v_proj_weight"), energies, strict=True)
        else:
            yield "in_proj_weight", torch.cat([energy.expand(self.module.embed_dim, -1) for energy in energies])
        yield "out_proj.weight", squares(self._heads(call))

    def _heads(self, call: Call) -> Tensor:
        """The module without its last projection."""
        weight = self.module.out_proj.weight
        replaced = {"out_proj.weight": torch.eye(len(weight)).to(weight)}
        if self.module.out_proj.bias is not None:
            replaced["out_proj.bias"] = torch.zeros_like(self.module.out_proj.bias)
        output = functional_call(
            _Unhooked(self.module), {f"module.{k}": v for k, v in replaced.items()}, call.args, dict(call.kwargs)
        )
        return self._rows(output[0], call)


def _same(query: Tensor, key: Tensor) -> bool:
    return query.shape == key.shape and torch.equal(query, key)


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


layer_of.register(nn.MultiheadAttention, AttentionLayer)
