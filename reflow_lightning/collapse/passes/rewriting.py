"""Carry a removal of channels out: smaller parameters, and the few steps that name sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from reflow_lightning.collapse.edits import tidy
from reflow_lightning.collapse.facts.groups import Channels
from reflow_lightning.collapse.facts.operator import operator_of
from reflow_lightning.collapse.facts.removal import Removal, Shrinking
from reflow_lightning.collapse.graph.steps import Steps


@torch.no_grad()
def remove_channels(steps: Steps, channels: Channels, bounds: Mapping[fx.Node, Any], removal: Removal) -> None:
    """Change the graph and its modules.

    Raises:
        MismatchError: If an addition that was taken apart does not fit.
    """
    shrinking = Shrinking(steps, channels, bounds, removal)
    for node in steps:
        operator_of(steps, node).shrink(node, shrinking)
    tidy(steps.traced)
