"""Sequences of several lengths: packed, masked, padded. All that is computed of them is of what they hold."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from field_cases.trial import Kind
from reflow_lightning import calibrate, measure_signal, prune
from reflow_lightning.signal import measure_entropy

Batch = dict[str, Tensor]
LENGTHS = [4, 6, 3, 6]
LONGER = 11


class Packed(nn.Module):
    """Layers before and after a recurrent one, which gets a packed sequence."""

    def __init__(self, kind: type[nn.RNNBase], in_order: bool = False, states: type | None = None, **how: Any) -> None:
        super().__init__()
        self.in_order, self.states = in_order, states
        self.words, self.first = nn.Embedding(20, 8), nn.Linear(8, 8)
        self.rnn = kind(8, 6, **{"batch_first": True, **how})
        sides = 1 + self.rnn.bidirectional
        self.last, self.start = nn.Linear(6 * sides, 3), nn.Linear(1, 6)

    def forward(self, ids: Tensor, kept: Tensor) -> Tensor:
        """See `torch.nn.Module`."""
        x, batch_first = self.first(self.words(ids)).relu(), self.rnn.batch_first
        x = x if batch_first else x.transpose(0, 1)
        packed = pack_padded_sequence(x, kept.sum(1), batch_first, enforce_sorted=self.in_order)
        given = ()
        if self.states is not None:
            state = self.start(torch.ones(self.rnn.num_layers, len(ids), 1))
            given = (self.states((state, state.tanh())),)
        return self.last(pad_packed_sequence(self.rnn(packed, *given)[0], batch_first)[0])


class Encoder(nn.Module):
    """Self-attention that is told which keys are padding."""

    def __init__(self, batch_first: bool = True, added: bool = False) -> None:
        super().__init__()
        self.words, self.first, self.added = nn.Embedding(20, 8), nn.Linear(8, 8), added
        layer = nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=batch_first)
        self.layers, self.batch_first = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), batch_first
        self.last = nn.Linear(8, 3)

    def forward(self, ids: Tensor, kept: Tensor) -> Tensor:
        """See `torch.nn.Module`."""
        x = self.first(self.words(ids))
        mask = torch.zeros(kept.shape).masked_fill(~kept, -torch.inf) if self.added else ~kept
        x = self.layers(x if self.batch_first else x.transpose(0, 1), src_key_padding_mask=mask)
        return self.last(x if self.batch_first else x.transpose(0, 1))


class Words(nn.Module):
    """The mean over words, whose padding the embedding is told of, or the batch."""

    def __init__(self, padding: int | None = None, conv: bool = False) -> None:
        super().__init__()
        self.words, self.up, self.down = nn.Embedding(20, 8, padding), nn.Linear(8, 16), nn.Linear(16, 8)
        self.conv, self.last = nn.Conv1d(8, 8, 1) if conv else None, nn.Linear(8, 3)

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        """See `torch.nn.Module`."""
        kept = attention_mask[..., None].bool()
        x = self.down(self.up(self.words(ids)).relu())
        x = x if self.conv is None else self.conv(x.transpose(1, 2)).transpose(1, 2)
        return self.last((x * kept).sum(1) / kept.sum(1))


_NETS: dict[str, Callable[[], nn.Module]] = {
    "lstm": partial(Packed, nn.LSTM),
    "lstm, time first": partial(Packed, nn.LSTM, batch_first=False),
    "lstm, both ways, two layers": partial(Packed, nn.LSTM, bidirectional=True, num_layers=2),
    "lstm, state as a tuple": partial(Packed, nn.LSTM, states=tuple),
    "lstm, state as a list": partial(Packed, nn.LSTM, states=list),
    "gru": partial(Packed, nn.GRU),
    "gru, both ways": partial(Packed, nn.GRU, bidirectional=True),
    "rnn, without bias": partial(Packed, nn.RNN, bias=False),
    "encoder": Encoder,
    "encoder, time first": partial(Encoder, batch_first=False),
    "encoder, added mask": partial(Encoder, added=True),
    "embedding with padding_idx": partial(Words, 0),
    "mask in the batch": Words,
    "mask in the batch, convolution": partial(Words, conv=True),
}


def _batches(net: nn.Module, length: int | None = None) -> list[Batch]:
    """Sequences that are padded to a length, or one by one, without any padding."""
    draw = torch.Generator().manual_seed(0)
    mask = "attention_mask" if isinstance(net, Words) else "kept"
    found = []
    for _ in range(3):
        rows = [torch.randint(1, 20, (n,), generator=draw) for n in LENGTHS]
        if length is None:
            found += [{"ids": row[None], mask: torch.ones(1, len(row), dtype=torch.bool)} for row in rows]
        else:
            ids = torch.stack([nn.functional.pad(row, (0, length - len(row))) for row in rows])
            found.append({"ids": ids, mask: ids != 0})
    return found


def _pair(name: str) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    net = _NETS[name]().eval()
    dense = copy.deepcopy(net)
    prune(net, 0.5)
    return net, dense


def _measured(name: str) -> str:
    """Whether padding changes what is measured."""
    net, dense = _pair(name)
    alone, padded = (
        measure_signal(net, batches, reference=dense, max_batches=len(batches))
        for batches in (_batches(net), _batches(net, LONGER))
    )
    for row, other in zip(alone.rows, padded.rows, strict=True):
        for field in ("mean", "variance", "total_variance", "entropy", "variance_ratio", "cosine", "cka"):
            one, two = getattr(row, field), getattr(other, field)
            if abs(one - two) > 1e-4 * max(1, abs(one)):
                return f"{field} of {row.name} is {two:.4f}, not {one:.4f}"
    if alone.rectifiers:
        both = _batches(net), _batches(net, LONGER)
        one, two = (measure_entropy(net, batches, max_batches=len(batches)).rows for batches in both)
        return "" if one == two else f"entropy {two[0].entropy:.4f}, not {one[0].entropy:.4f}"
    return ""


def _repaired(name: str, repair: str) -> str:
    """Whether more padding changes what is repaired."""
    net, dense = _pair(name)
    nets = []
    for length in (max(LENGTHS), LONGER):
        nets.append(copy.deepcopy(net))
        calibrate(nets[-1], _batches(net, length), repair=repair, reference=dense, max_batches=3)
    if repair == "reconstruct":  # exactly the sums of all positions, in whatever batches
        nets.append(copy.deepcopy(net))
        alone = _batches(net)
        calibrate(nets[-1], alone, repair=repair, reference=dense, max_batches=len(alone))
    for other in nets[1:]:
        for (part, one), two in zip(nets[0].state_dict().items(), other.state_dict().values(), strict=True):
            if not torch.allclose(one, two, atol=2e-3):
                return f"{part} differs by {(one - two).abs().max():.4f}"
    changed = any(not torch.equal(value, net.state_dict()[part]) for part, value in nets[0].state_dict().items())
    return "" if changed else "unchanged"


def _trials() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in _NETS:
        found[f"{name}, measured"] = partial(_measured, name)
        for repair in ("auto", "reconstruct"):
            found[f"{name}, {repair}"] = partial(_repaired, name, repair)
    return found


KINDS = [
    Kind(
        "sequences of several lengths",
        "packed sequences and states given as lists fail in the event, and padding counts like data",
        "packed, in any order and layout, both ways, with states; masks of attention, of embeddings, in the batch",
        _trials(),
    )
]
