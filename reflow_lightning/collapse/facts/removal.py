"""Which channels go, how layers read them, and what is known while that is carried out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from reflow_lightning.collapse.facts.groups import Channels
from reflow_lightning.collapse.graph.steps import Steps
from reflow_lightning.running.errors import ReflowError


class MismatchError(ReflowError, ValueError):
    """A removal does not fit a step: an addition would have an operand with channels that its result lacks."""


@dataclass
class Read:
    """How a convolution or linear layer reads its input channels.

    Attributes:
        node: The step.
        numbers: Number of each input channel.
        values: Its value, where it is constant; else NaN.
        folds: Whether that value times the weights is the same at all positions, so that a bias can take its place: at
            the border of a padded convolution it is not, unless the value is zero.
    """

    node: fx.Node
    numbers: Tensor
    values: Tensor
    folds: Tensor


@dataclass
class Removal:
    """Which channels go.

    Attributes:
        numbers: Their numbers.
        carriers: By step, the input channel that carries what each removed one contributed, where no bias can.
        reads: All reads, by step.
    """

    numbers: set[int] = field(default_factory=set)
    carriers: dict[fx.Node, dict[int, int]] = field(default_factory=dict)
    reads: dict[fx.Node, Read] = field(default_factory=dict)

    def keeps(self, numbers: Tensor) -> Tensor:
        """Which of these channels stay."""
        return torch.tensor([number not in self.numbers for number in numbers.tolist()], dtype=torch.bool)


@dataclass
class Shrinking:
    """A removal that is carried out.

    Attributes:
        steps: The graph.
        channels: Its channels.
        bounds: Bounds by step.
        removal: Which channels go.
        axes: The channel dimension of each step as it was before anything changed.
        inputs: The steps that each step read then.
    """

    steps: Steps
    channels: Channels
    bounds: Mapping[fx.Node, Any]
    removal: Removal

    def __post_init__(self) -> None:
        self.axes = {node: self.channels.axis(node) for node in self.steps.traced.graph.nodes}
        self.inputs = {node: tuple(node.all_input_nodes) for node in self.axes}

    def stays(self, node: fx.Node) -> Tensor | None:
        """Which output channels of a step stay, if it has channels and some go."""
        axis = self.axes[node]
        stays = None if axis is None else self.removal.keeps(axis.numbers)
        return None if stays is None or bool(stays.all()) else stays
