"""Which positions of the sequences in a batch are padding, as far as layers are told."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from reflow_lightning.layers.layer import Layer
from reflow_lightning.running.attention_mask import LEAST, Around, attention_mask
from reflow_lightning.running.compat.torch import tree_leaves, tree_map_only
from reflow_lightning.running.forward import Forward
from reflow_lightning.running.hooks import Call, watching_inputs
from reflow_lightning.running.processes import warn


class _Told(NamedTuple):
    """What one layer was told: which positions hold data, (samples, positions), and its own layout."""

    valid: Tensor
    time_first: bool


class Valid:
    """The positions of a batch that hold data.

    Args:
        told: What layers were told. Where they do not agree, nothing is known.

    Example:
        >>> valid = Valid([_Told(torch.tensor([[True, True], [True, False], [True, True]]), False)])
        >>> valid.rows(torch.ones(3, 2, 7), dim=-1).shape, valid.rows(torch.ones(3, 5, 7), dim=-1).shape
        (torch.Size([5, 7]), torch.Size([3, 5, 7]))
    """

    def __init__(self, told: Iterable[_Told] = ()) -> None:
        self._told = list(told)

    def of(self, samples: int, positions: int) -> Tensor | None:
        """What holds data in activations of so many samples and positions, in either order; ``None`` if unknown."""
        fitting = []
        for valid, time_first in self._told:
            kept = valid.T if time_first and samples == positions else valid
            kept = kept.T if kept.shape != (samples, positions) else kept
            if kept.shape == (samples, positions):
                fitting.append(kept)
        agree = all(torch.equal(fitting[0], other) for other in fitting)
        return fitting[0] if fitting and agree else None

    def samples_first(self, values: Tensor) -> tuple[Tensor, Tensor | None]:
        """Activations (N, C, positions), turned if N are the positions, and which of these positions hold data."""
        valid = self.of(values.shape[0], values.shape[2])
        if valid is None or any(valid is told.valid for told in self._told):
            return values, valid
        return values.transpose(0, 2), valid.T

    def rows(self, values: Tensor, dim: int) -> Tensor:
        """Sequences without their padding, (rows, channels); what is no sequence as it is."""
        if not self._told or values.ndim not in (2, 3):
            return values
        last = values.movedim(dim, -1)
        valid = self._flat(len(last)) if values.ndim == 2 else self.of(*last.shape[:2])
        return values if valid is None else last[valid.to(last.device)]

    def _flat(self, rows: int) -> Tensor | None:
        """What holds data in sequences that were joined to so many rows, as OPT does; ``None`` if unknown."""
        fitting = [(v.T if time_first else v).flatten() for v, time_first in self._told if v.numel() == rows]
        agree = all(torch.equal(fitting[0], other) for other in fitting)
        return fitting[0] if fitting and agree and self._told[0].valid.shape[1] > 1 else None

    def call(self, call: Call, layer: Layer) -> Call:
        """A call of a layer that treats each position alike, without the padding; of another layer as it is."""
        if not self._told or layer.channel_dim != -1 or layer.dim is None or len(layer.maps) != 1:
            return call
        stripped: Call = tree_map_only(Tensor, lambda values: self.rows(values, -1), call)
        return stripped


class Padding:
    """Finds out what is padding in each batch, for a network whose layers are told.

    Recurrent layers are told by a `PackedSequence`, attention by ``key_padding_mask``, embeddings by ``padding_idx``,
    and a whole model by an `attention_mask` of the batch, which goes before all others and is read at once. What layers
    are told takes a forward pass more for each batch, but not if the first batch tells nothing.

    Args:
        model: Any module.
        told: Whether layers are told anything, if that is known.

    Example:
        >>> model = nn.Sequential(nn.Embedding(9, 4, padding_idx=0), nn.Linear(4, 2))
        >>> padding = Padding(model)
        >>> padding.of(model, torch.tensor([[5, 3], [7, 0]]), lambda model, batch: model(batch)).of(2, 2)
        tensor([[ True,  True],
                [ True, False]])
    """

    def __init__(self, model: nn.Module, told: bool = True) -> None:
        self._tellers = _tellers(model) if told else {}

    @torch.no_grad()
    def of(self, model: nn.Module, batch: Any, forward: Forward) -> Valid:
        """What holds data in a batch; the model is run in the mode in which it is."""
        mask = attention_mask(forward, batch)
        if mask is not None and getattr(getattr(model, "config", None), "is_encoder_decoder", False):
            warn(
                "padding counts in statistics of an encoder with a decoder, as it is not known which layers the "
                "attention_mask is for: give batches without padding, such as sentences of one length"
            )
            return Valid()
        if mask is not None:
            return Valid([_Told(mask, False)])
        found: list[_Told] = []
        if self._tellers:
            with watching_inputs(
                model, self._tellers, lambda name, call: found.extend(told(self._tellers[name], call))
            ):
                forward(model, batch)
        if not found:
            self._tellers = {}
        return Valid([longer for one in found for longer in (one, *_lengthened(one, batch))])


def noticing(model: nn.Module, forward: Forward, notice: Callable[[], None]) -> Forward:
    """The same forward pass, which says so if it tells a layer of the model what is padding."""
    tellers = _tellers(model)

    def watched(network: nn.Module, batch: Any) -> Any:
        def look(name: str, call: Call) -> None:
            if told(tellers[name], call):
                notice()

        if network is not model or not tellers:
            return forward(network, batch)
        with watching_inputs(model, tellers, look):
            return forward(network, batch)

    return Around(forward, watched)


def _tellers(model: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if _may_tell(module)}


def _may_tell(module: nn.Module) -> bool:
    return isinstance(module, (nn.RNNBase, nn.MultiheadAttention)) or (
        isinstance(module, nn.Embedding) and module.padding_idx is not None
    )


def told(module: nn.Module, call: Call) -> list[_Told]:
    """What a layer, of any kind, is told of padding in a call."""
    if not _may_tell(module):
        return []
    if isinstance(module, nn.Embedding):
        ids, padding = call.first, module.padding_idx
        given = padding is not None and isinstance(ids, Tensor) and ids.ndim == 2
        return [_Told(ids.ne(padding), False)] if given else []
    time_first = not module.batch_first
    if isinstance(module, nn.MultiheadAttention):
        mask = call.argument(3, "key_padding_mask")
        return [] if mask is None or mask.ndim != 2 else [_Told(unmasked(mask), time_first)]
    given = call.argument(0, "input")
    return [_Told(held(given), time_first)] if isinstance(given, PackedSequence) else []


def unmasked(mask: Tensor) -> Tensor:
    """What a padding mask of attention leaves: where it is false, or adds nothing that amounts to minus infinity."""
    return ~mask if mask.dtype == torch.bool else mask > LEAST


def held(packed: PackedSequence) -> Tensor:
    """Which positions a packed sequence holds, (samples, positions), with the samples in the order of the batch.

    Example:
        >>> from torch.nn.utils.rnn import pack_sequence
        >>> held(pack_sequence([torch.ones(1), torch.ones(2)], enforce_sorted=False)).tolist()
        [[True, False], [True, True]]
    """
    sizes = packed.batch_sizes
    valid = torch.arange(int(sizes[0]))[:, None] < sizes
    valid = valid.to(packed.data.device)
    return valid if packed.unsorted_indices is None else valid[packed.unsorted_indices]


def _lengthened(told: _Told, batch: Any) -> Iterable[_Told]:
    """The same for sequences that were longer in the batch than the longest that was packed."""
    samples, positions = told.valid.shape
    for values in tree_leaves(batch):
        if isinstance(values, Tensor) and values.ndim in (2, 3):
            longer = next((p for s, p in (values.shape[:2], values.shape[1::-1]) if s == samples and p > positions), 0)
            if longer:
                yield _Told(nn.functional.pad(told.valid, (0, longer - positions)), told.time_first)
