"""The states of a network between its blocks, and how far two networks are apart in them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from reflow_lightning.layers.find import known_layers
from reflow_lightning.layers.padding import Valid
from reflow_lightning.running.exact import rounding
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.hooks import Call, watching
from reflow_lightning.running.outputs import logits_of, numbers_of

SPREAD = 5.0
"""Standard deviation to which outputs are scaled down before they are compared as logits of classes."""

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class States(NamedTuple):
    """What a network has computed of a batch.

    Attributes:
        between: What each block put out, with its name, in the order of the calls.
        outputs: What the network put out.
    """

    between: list[tuple[str, Tensor]]
    outputs: list[Tensor]

    def without(self, names: Collection[str]) -> list[tuple[str, Tensor]]:
        """What all blocks put out but some."""
        return [(name, values) for name, values in self.between if name not in names]

    def are_finite(self) -> bool:
        """Whether no block put out NaN or infinite values, and the network no NaN."""
        blocks = all(bool(values.isfinite().all()) for _, values in self.between)
        return blocks and not any(bool(values.isnan().any()) for values in self.outputs)


def state_names(model: nn.Module) -> list[str]:
    """The modules whose outputs are the states of a network: its blocks.

    A block is a module around weighted layers. A layer that stands by itself in a container, as in a plain
    ``nn.Sequential``, is one too; so is every weighted layer of a network without any block.

    Example:
        >>> class Residual(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.inner = nn.Linear(2, 2)
        >>> state_names(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), Residual()))
        ['0', '2']
    """
    layers = [name for name, layer in known_layers(model) if layer.weights]
    parents = dict.fromkeys(name.rpartition(".")[0] for name in layers)
    around = {parent[:end] for parent in parents for end in (*_ends(parent), len(parent))} - {""}
    within = tuple(f"{name}." for name in layers)  # a layer, such as attention, may hold others
    blocks = {name for name in around - set(layers) if not f"{name}.".startswith(within)}
    alone = {name for name in layers if isinstance(model.get_submodule(name.rpartition(".")[0]), _CONTAINERS)}
    found = blocks | alone or set(layers)
    return [name for name, module in model.named_modules() if name in found and not isinstance(module, nn.ModuleList)]


def states_of(model: nn.Module, names: Iterable[str], batch: Any, forward: Forward, head: str | None = None) -> States:
    """Run a network on a batch and keep its states; one that two blocks put out, the inner and the outer, once.

    Of an output that names its logits these alone count.

    Args:
        model: The network.
        names: Its blocks.
        batch: The batch.
        forward: Runs the network on it.
        head: A layer whose last output stands for the network's, as where ``forward`` returns a loss.
    """
    blocks = list(names)
    between: list[tuple[str, Tensor]] = []
    of_head: list[Tensor] = []
    seen: set[int] = set()

    def keep(name: str, call: Call) -> None:
        values = numbers_of(call.output)
        if name == head:
            of_head[:] = values
            if name not in blocks:
                return
        new = [value for value in values if id(value) not in seen]
        seen.update(map(id, new))
        between.extend((name, value) for value in new)

    with watching(model, dict.fromkeys((*blocks, *(() if head is None else (head,)))), keep):
        output = logits_of(forward(model, batch))
    return States(between, numbers_of(output) if head is None else of_head)


def last_layer(model: nn.Module, batch: Any, forward: Forward) -> str | None:
    """The layer with weights that is called last; ``None`` if none is called.

    Example:
        >>> last_layer(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), torch.ones(1, 2), nn.Module.__call__)
        '0'
    """
    called: list[str] = []
    layers = [name for name, layer in known_layers(model) if layer.weights]
    with watching(model, layers, lambda name, _: called.append(name)):
        forward(model, batch)
    return called[-1] if called else None


def mismatch(found: States, dense: States, logits: float, valid: Valid, unpaired: Collection[str] = ()) -> Tensor:
    """How far a network is from the dense one in its states, as a number that can be differentiated.

    It is the mean of ``mean((x - y)^2) / var(y)`` over the states and outputs x of the network and y of the
    dense one, plus ``logits`` times the Kullback-Leibler divergence of the classes that the outputs stand for. Outputs
    whose standard deviation is beyond `SPREAD` are scaled down to it for the second, as a temperature does.

    Args:
        found: Of the network.
        dense: Of the dense network, on the same batch.
        logits: Weight of the second term.
        valid: Which positions of sequences are no padding; others do not count.
        unpaired: Blocks that do not count, since the data choose their rows.

    Raises:
        ValueError: If there is nothing to compare.

    Example:
        >>> dense = States([("block", torch.tensor([[0.0, 2.0]]))], [])
        >>> mismatch(States([("block", torch.tensor([[1.0, 2.0]]))], []), dense, 1.0, Valid()).item()
        0.5
    """
    left = {*unpaired, *unpaired_blocks(found, dense)}
    pairs = [(x, y) for (_, x), (_, y) in zip(found.without(left), dense.without(left), strict=True)]
    outputs = [(x, y) for x, y in zip(found.outputs, dense.outputs, strict=False) if x.shape == y.shape]
    outputs = [_without_infinities(x, y) for x, y in outputs]
    terms = [_relative(*(valid.rows(values, -1) for values in pair)) for pair in (*pairs, *outputs) if pair[1].numel()]
    if not terms:
        raise ValueError(
            "the pruned network and the dense one have no block or output in common to align: let "
            "forward(model, batch) run the model that it is given, and return its output"
        )
    divergences = [_divergence(x, y, valid) for x, y in outputs if y.ndim > 1 and y.numel()]
    loss = torch.stack(terms).mean()
    return loss + logits * torch.stack(divergences).mean() if divergences and logits else loss


def unpaired_blocks(found: States, dense: States) -> set[str]:
    """Blocks that ran otherwise in the two networks: another number of times, or on other rows.

    Example:
        >>> unpaired_blocks(States([("a", torch.ones(2))], []), States([("a", torch.ones(3))], []))
        {'a'}
    """
    shapes: list[dict[str, list[torch.Size]]] = [{}, {}]
    for states, known in zip((found, dense), shapes, strict=True):
        for name, values in states.between:
            known.setdefault(name, []).append(values.shape)
    return {name for name in shapes[0].keys() | shapes[1].keys() if shapes[0].get(name) != shapes[1].get(name)}


def _ends(name: str) -> list[int]:
    return [place for place, letter in enumerate(name) if letter == "."]


def _relative(found: Tensor, dense: Tensor) -> Tensor:
    """The mean square error over the variance; 0 for a state that is constant in the dense network (up to rounding)."""
    wanted = dense.float() if dense.dtype != torch.float64 else dense
    variance = wanted.var(correction=0)
    error = (found.to(wanted) - wanted).square().mean()
    varies = variance > rounding(dense)
    return error * torch.where(varies, 1 / torch.where(varies, variance, 1.0), torch.zeros_like(variance))


def _without_infinities(found: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
    """Both with a number in the place of what is infinite in both alike, such as the logits of classes ruled out."""
    ruled_out = dense.isinf() & (found.detach() == dense)
    if not bool(ruled_out.any()):
        return found, dense
    least = dense[dense.isfinite()].min() if bool(dense.isfinite().any()) else torch.zeros_like(dense[ruled_out][0])
    return torch.where(ruled_out, least, found), torch.where(ruled_out, least, dense)


def _divergence(found: Tensor, dense: Tensor, valid: Valid) -> Tensor:
    """KL(dense || found) of the classes, which lie in dimension 1, or last in sequences."""
    if dense.ndim == 3:
        found, dense = (valid.rows(values, -1).flatten(0, -2) for values in (found, dense))
    scale = (SPREAD / dense.float().std(correction=0)).clamp(max=1)
    wanted, got = (torch.log_softmax(values.float() * scale, 1) for values in (dense, found))
    return (wanted.exp() * (wanted - got)).sum(1).mean()
