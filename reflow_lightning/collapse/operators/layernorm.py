"""LayerNorm, whose output depends on all channels of its input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reflow_lightning.collapse.facts.operator import Operator


class LayerNorm(Operator):
    """A LayerNorm over the last dimension; see `fold_into_norms` for channels that are constant before it."""

    modules: Mapping[str, str] = {"LayerNorm": "layernorm"}

    def fits(self, module: Any) -> bool:
        """See `Kind`."""
        return len(module.normalized_shape) == 1
