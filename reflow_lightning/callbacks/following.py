"""Which networks of a LightningModule follow a trained one, seen from how they move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from reflow_lightning.pruning import Masks
from reflow_lightning.pruning.probing import Probe
from reflow_lightning.pruning.ties import nearest_source, single_copies
from reflow_lightning.running.copies import copies_in, is_matrix
from reflow_lightning.running.names import matches_any
from reflow_lightning.running.snapshot import named_tensors

_TOWARDS = 0.5
"""Cosine between a move and the way to the network that is followed. Of unrelated moves it is 0 up to chance."""


class Candidate:
    """A network, or a single tensor, that is not trained and is built like one that is.

    It counts as a follower once it has moved towards the trained one though no optimizer moves it: an average goes a
    part of the way at each update, a target all of it now and then. That it is equal is not enough, as a reference that
    stays may be. Nor is any other move enough, as of a layer that is trained later.

    Args:
        module: The LightningModule.
        sources: For each trained network, the names of its tensors by the names of those that may follow.
    """

    def __init__(self, module: nn.Module, sources: Sequence[Mapping[str, str]]) -> None:
        self.sources = sources
        self.names = list(sources[0])
        tensors = dict(named_tensors(module))
        self._ids = {id(tensors[name]) for name in self.names}
        self._own = _values(tensors, self.names)
        self._others = [_values(tensors, [names[name] for name in self.names]) for names in sources]
        self.look()

    def look(self) -> None:
        """Take its values as they are now."""
        self._before = self._own.values()

    def is_in(self, ids: set[int]) -> bool:
        """Whether some parameters are its own."""
        return not self._ids.isdisjoint(ids)

    def is_masked(self, masks: Masks | None) -> bool:
        """Whether masks prune it, for example masks from a checkpoint."""
        return masks is not None and not masks.keys().isdisjoint(self.names)

    def follows(self) -> bool:
        """Whether it has moved towards one of the trained networks since the last look."""
        now = self._own.values()
        if all(torch.equal(a, b) for a, b in zip(now, self._before, strict=True)):
            return False
        return any(_moved_towards(self._before, now, other.values()) for other in self._others)


def candidates_in(module: nn.Module, trained: set[int]) -> list[Candidate]:
    """All that may follow a trained network: modules that are built alike, buffers and parameters of equal shapes.

    Args:
        module: The LightningModule.
        trained: The ids of the parameters that are trained.
    """
    if not trained or not any(map(is_matrix, module.parameters())):
        return []
    found = [copy.names(module) for copy in copies_in(module, trained)]
    known = {name for sources in found for name in sources[0]}
    found += [sources for name, sources in single_copies(module, trained).items() if name not in known]
    return [Candidate(module, sources) for sources in found if sources and sources[0]]


def tie(module: nn.Module, candidate: Candidate, exclude: Sequence[str]) -> dict[str, str]:
    """The names of what is followed, by the names of what follows and is not excluded."""
    names = nearest_source(module, candidate.sources)
    return {n: source for n, source in names.items() if not matches_any(n, exclude)}


def _values(tensors: Mapping[str, Tensor], names: Sequence[str]) -> Probe:
    return Probe.of_all([tensors[name] for name in names])


def _moved_towards(before: Sequence[Tensor], now: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """Whether values have moved in the direction of other ones."""
    start, end, goal = (torch.cat([part.double().cpu() for part in values]) for values in (before, now, other))
    move, way = end - start, goal - start
    lengths = move.norm() * way.norm()
    return bool(lengths > 0) and bool((move @ way) / lengths > _TOWARDS)
