"""Monotone steps within a channel, which is dimension 1: pooling, resizing, and layers that pad."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx

from reflow_lightning.collapse.facts.following import Following
from reflow_lightning.collapse.facts.operator import Operator
from reflow_lightning.collapse.facts.step import Step
from reflow_lightning.collapse.graph.kind import OPAQUE

_KINDS = {"Max": "max", "Avg": "avg", "AdaptiveMax": "adaptive_max", "AdaptiveAvg": "adaptive_avg"}
_PADS = ("Zero", "Constant", "Reflection", "Replication", "Circular")


class Pool(Operator):
    """Each output is an average, the largest or one of the values near it; a mean of neighbours if resized."""

    functions: Mapping[str, str] = {
        "interpolate": "interpolate",
        **{f"{name}_pool{n}d": f"{name}_pool{n}d" for name in _KINDS.values() for n in (1, 2, 3)},
    }
    modules: Mapping[str, str] = {
        "Upsample": "interpolate",
        **{f"{kind}Pool{n}d": f"{name}_pool{n}d" for kind, name in _KINDS.items() for n in (1, 2, 3)},
        **{f"{kind}Pad{n}d": f"pad{n}d" for kind in _PADS for n in (1, 2, 3)},
    }

    def fits(self, module: Any) -> bool:
        """See `Kind`; neither bicubic interpolation nor a place is monotone."""
        return getattr(module, "mode", None) != "bicubic" and not getattr(module, "return_indices", False)

    def called(self, function: str, node: fx.Node) -> str:
        """See `Kind`."""
        mode = node.kwargs.get("mode", node.args[3] if len(node.args) > 3 else "nearest")
        return OPAQUE if function == "interpolate" and mode == "bicubic" else self.functions[function]

    def bounds(self, step: Step) -> Any:
        """See `Operator`."""
        return step.rising() if isinstance(step.value, Tensor) else step.nothing

    def channels(self, step: Step, follow: Following) -> Any:
        """The channels of the input, unless it has no samples: then dimension 1 holds something else."""
        value, name = step.value, step.name
        if isinstance(value, Tensor) and (name == "interpolate" or value.ndim == int(name[-2]) + 2):
            return follow.channelwise(step)
        return super().channels(step, follow)
