"""Which weights the batches reach: nothing is known of the others, which is not the same as that they are worthless."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from reflow_lightning.running.names import few
from reflow_lightning.running.processes import gather, warn


@dataclass(frozen=True)
class Signal:
    """What is to reach the weights, in the words of messages.

    Attributes:
        name: In singular.
        causes: Why it may not reach a weight.
        zeros: Why it may be zero.
    """

    name: str
    causes: str
    zeros: str


GRADIENT = Signal(
    "gradient",
    "a part that is computed without gradients, by no_grad, detach or checkpoint(use_reentrant=True), a layer that is "
    "never called, or one that runs in train mode only, such as an auxiliary head (the model is in eval mode here)",
    "rectifiers that are off, a factor of zero, such as a norm that begins with it, or a loss of zero",
)
INPUT = Signal(
    "input",
    "a layer that is never called, whose weight is used without calling it, or that runs in train mode only, such as "
    "an auxiliary head (the model is in eval mode here)",
    "rectifiers that are off, or a factor of zero",
)


class Reach:
    """Notes which weights are reached, by anything and by anything but zeros.

    A weight that is reached by zeros alone has no influence on these batches, and so its score of zero is true; it may
    have one on others, so a warning names it. A weight that nothing reaches has no score at all.

    Args:
        weights: By parameter name.

    Attributes:
        missing: Names of those that nothing has reached on this process.

    Example:
        >>> import torch
        >>> reach = Reach({"body": torch.ones(1), "aux": torch.ones(1)})
        >>> reach.note({"body": torch.ones(1)})
        >>> reach.check(GRADIENT)
        Traceback (most recent call last):
        ValueError: no gradient of any batch reached 'aux', so nothing is known of its worth: ...
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._names = [name for name, weight in weights.items() if weight.numel()]
        self.missing, self._zero = set(self._names), set(self._names)
        self._read = False

    def note(self, values: Mapping[str, Tensor]) -> None:
        """What a batch has reached, by name; nothing at all is worth a note too."""
        self._read = True
        self.missing -= values.keys()
        self._zero -= {name for name in self._zero & values.keys() if bool(values[name].any())}

    def check(self, signal: Signal) -> None:
        """Check, after the last batch, that each weight was reached on some process; all of them must call it.

        Raises:
            ValueError: If one was not, although there were batches.
        """
        read, missing, zero = zip(*gather((self._read, self.missing, self._zero)), strict=True)
        if not any(read):  # `estimate` says that, which counts the batches
            return
        unreached, silent = set.intersection(*missing), set.intersection(*zero)
        if unreached:
            names = [name for name in self._names if name in unreached]
            its, dots = "its" if len(names) == 1 else "their", ", ..." * (len(names) > 1)
            raise ValueError(
                f"no {signal.name} of any batch reached {few(map(repr, names))}, so nothing is known of {its} worth: "
                f"look for {signal.causes}; or use exclude=['{names[0]}'{dots}], or another criterion, such as "
                "'magnitude'"
            )
        if silent:
            names = [name for name in self._names if name in silent]
            warn(
                f"every {signal.name} that reached {few(map(repr, names))} was exactly zero, which counts as "
                f"worthless: look for {signal.zeros}, or use exclude"
            )
