"""Multiply-adds: of every way to multiply, against a count by hand; of tied weights; and what is not counted."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.rnn import pack_padded_sequence

from field_cases.trial import Kind, Trial
from reflow_lightning.cost import measure_cost
from reflow_lightning.cost.cost import Cost


class Run(nn.Module):
    """A function of its layers and weights, by name, and of the inputs."""

    def __init__(self, run: Callable[..., Any], **parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            self.register_parameter(name, nn.Parameter(part)) if isinstance(part, Tensor) else setattr(self, name, part)

    def forward(self, *inputs: Any) -> Any:
        """What the function gives."""
        return self.run(self, *inputs)


def measured(model: nn.Module, *inputs: Any) -> Cost:
    """The cost, without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return measure_cost(model, inputs)


def halve(model: nn.Module) -> nn.Module:
    """With every second value of each matrix zero, but for the lengths of a weight norm."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and not name.endswith(("original0", "weight_g")):
                parameter.view(-1)[::2] = 0
    return model


def counts(model: nn.Module, by_hand: int, *inputs: Any, between: int = 0) -> Trial:
    """A model with so many multiply-adds by weights, of which half are zero, and so many between activations."""

    def trial() -> str:
        cost = measured(halve(model), *inputs)
        found = (cost.multiply_adds, cost.effective, sum(layer.multiply_adds for layer in cost.layers), cost.uncounted)
        right = (by_hand + between, by_hand // 2 + between, by_hand, ())
        return "" if found == right else f"{found} and not {right}"

    return trial


def names(model: nn.Module, operator: str, *inputs: Any) -> Trial:
    """A model with an operator that can't be counted."""

    def trial() -> str:
        found = measured(model, *inputs).uncounted
        return "" if any(operator in name for name in found) else f"only {found} are named"

    return trial


def tied() -> nn.Module:
    """Two layers of one weight."""
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.ReLU(), nn.Linear(8, 8, bias=False))
    model[2].weight = model[0].weight
    return model


def in_one_buffer(model: nn.Module) -> nn.Module:
    """With all parameters side by side in memory."""
    nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(model.parameters()), model.parameters())
    return model


def with_hidden_zeros() -> nn.Module:
    """A layer whose zeros are in a mask."""
    layer = nn.Linear(8, 6)
    prune.identity(layer, "weight")
    layer.weight_mask.view(-1)[::2] = 0
    return layer


def attend(**options: Any) -> Callable[..., Any]:
    """Attention, as a function of a model, queries, keys and values."""
    return lambda _, q, k, v: functional.scaled_dot_product_attention(q, k, v, **options)


@torch.library.custom_op("field_cases::doubled", mutates_args=())
def doubled(x: Tensor) -> Tensor:
    """An operator that torch knows nothing of."""
    return x * 2


def quantised() -> nn.Module:
    """A linear layer of 8-bit integers."""
    return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(8, 6)), dtype=torch.qint8)


def x(*shape: int) -> Tensor:
    """One sample."""
    return torch.randn(1, *shape)


def heads(q: int, k: int, steps: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of so many heads."""
    return x(q, steps, 8), x(k, 7, 8), x(k, 7, 4)


BETWEEN = 4 * 5 * 7 * (8 + 4)
ATTENTION = {
    "scaled_dot_product_attention": counts(Run(attend()), 0, *heads(4, 4), between=BETWEEN),
    "with a mask": counts(Run(attend(attn_mask=torch.ones(5, 7) > 0)), 0, *heads(4, 4), between=BETWEEN),
    "causal": counts(Run(attend(is_causal=True)), 0, *heads(4, 4), between=BETWEEN),
    "grouped queries": counts(Run(attend(enable_gqa=True)), 0, *heads(4, 2), between=BETWEEN),
    "without gradients": counts(Run(torch.no_grad()(attend())), 0, *heads(4, 4), between=BETWEEN),
    "in inference mode": counts(Run(torch.inference_mode()(attend())), 0, *heads(4, 4), between=BETWEEN),
    **{
        f"MultiheadAttention {options}": counts(
            Run(lambda m, v, o=options: m.a(v, v, v, **o)[0], a=nn.MultiheadAttention(8, 2, batch_first=True)),
            5 * 4 * 64,
            x(5, 8),
            between=2 * 25 * 8,
        )
        for options in ({}, {"need_weights": False})
    },
    "TransformerEncoderLayer": counts(
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 5 * (4 * 64 + 2 * 8 * 16), x(5, 8), between=2 * 25 * 8
    ),
    "TransformerDecoderLayer": counts(
        nn.TransformerDecoderLayer(8, 2, 16, batch_first=True),
        5 * (4 * 64 + 2 * 64 + 2 * 8 * 16) + 7 * 2 * 64,
        x(5, 8),
        x(7, 8),
        between=2 * 25 * 8 + 2 * 35 * 8,
    ),
}

RECURRENT = {
    f"{kind.__name__} {options}": counts(kind(3, 4, batch_first=True, **options), 7 * size * gates, x(7, 3))
    for kind, gates in ((nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4))
    for options, size in (
        ({}, 4 * (3 + 4)),
        ({"num_layers": 2}, 4 * (3 + 4 + 4 + 4)),
        ({"bidirectional": True, "num_layers": 2}, 2 * 4 * (3 + 4 + 8 + 4)),
    )
} | {
    "LSTM with a projection": counts(nn.LSTM(3, 4, proj_size=2, batch_first=True), 7 * (16 * (3 + 2) + 8), x(7, 3)),
    "LSTMCell": counts(nn.LSTMCell(3, 4), 16 * 7, x(3)),
    "GRUCell": counts(nn.GRUCell(3, 4), 12 * 7, x(3)),
    "packed LSTM": counts(
        Run(
            lambda m, v: m.l(pack_padded_sequence(v, torch.tensor([7, 3]), batch_first=True)),
            l=nn.LSTM(3, 4, batch_first=True),
        ),
        (7 + 3) * 16 * 7,
        torch.randn(2, 7, 3),
    ),
    "GRU whose weights are one buffer": counts(in_one_buffer(nn.GRU(3, 4, batch_first=True)), 7 * 12 * 7, x(7, 3)),
    "LSTM with a learned state": counts(
        Run(lambda m, v: m.l(v, (m.h, m.h.detach())), l=nn.LSTM(3, 4, batch_first=True), h=torch.randn(1, 1, 4)),
        7 * 16 * 7,
        x(7, 3),
    ),
}

W, STACK = torch.randn(6, 8), torch.randn(3, 5, 8)
FUNCTIONS = {
    "F.linear": counts(Run(lambda m, v: functional.linear(v, m.w), w=W.clone()), 5 * 48, x(5, 8)),
    "@": counts(Run(lambda m, v: v @ m.w.T, w=W.clone()), 5 * 48, x(5, 8)),
    "weight @ input": counts(Run(lambda m, v: m.w @ v[0].T, w=W.clone()), 5 * 48, x(5, 8)),
    "weight @ vector": counts(Run(lambda m, v: m.w @ v[0], w=W.clone()), 48, x(8)),
    "input @ vector": counts(Run(lambda m, v: v @ m.w, w=torch.randn(8, 1)), 5 * 8, x(5, 8)),
    "addmm": counts(Run(lambda m, v: torch.addmm(v[0], v[0], m.w.T), w=torch.randn(8, 8)), 5 * 64, x(5, 8)),
    "addmm to a weight": counts(
        Run(lambda m, v: torch.addmm(m.b, v[0], v[0].T), b=torch.randn(5, 5)), 0, x(5, 8), between=200
    ),
    "addmv": counts(Run(lambda m, v: torch.addmv(v[0, :6], m.w, v[0]), w=W.clone()), 48, x(8)),
    "bmm": counts(Run(lambda m, v: torch.bmm(v, m.w), w=torch.randn(3, 8, 8)), 3 * 5 * 64, STACK),
    "baddbmm": counts(Run(lambda m, v: torch.baddbmm(v, v, m.w), w=torch.randn(3, 8, 8)), 3 * 5 * 64, STACK),
    "addbmm": counts(Run(lambda m, v: torch.addbmm(v[0], v, m.w), w=torch.randn(3, 8, 8)), 3 * 5 * 64, STACK),
    "matmul of stacks": counts(Run(lambda m, v: torch.matmul(v, m.w), w=torch.randn(8, 6)), 15 * 48, STACK),
    "einsum": counts(Run(lambda m, v: torch.einsum("nd,hed->nhe", v, m.w), w=torch.randn(2, 6, 8)), 96, x(8)),
    "tensordot": counts(Run(lambda m, v: torch.tensordot(v, m.w, 1), w=torch.randn(8, 6)), 5 * 48, x(5, 8)),
    "inner product": counts(Run(lambda m, v: v[0] @ v[0]), 0, x(8), between=8),
    "F.bilinear": counts(Run(lambda m, v, u: functional.bilinear(v, u, m.w), w=torch.randn(3, 4, 6)), 72, x(4), x(6)),
    "F.conv2d": counts(Run(lambda m, v: functional.conv2d(v, m.w), w=torch.randn(6, 2, 3, 3)), 16 * 108, x(2, 6, 6)),
    "grouped convolution": counts(nn.Conv2d(4, 6, 3, padding=1, groups=2), 36 * 6 * 2 * 9, x(4, 6, 6)),
    "dilated convolution": counts(nn.Conv1d(4, 6, 3, dilation=2), 4 * 6 * 4 * 3, x(4, 8)),
    "transposed convolution": counts(nn.ConvTranspose2d(4, 6, 3, stride=2), 36 * 4 * 6 * 9, x(4, 6, 6)),
    "grouped transposed convolution": counts(nn.ConvTranspose1d(4, 6, 3, groups=2), 6 * 4 * 3 * 3, x(4, 6)),
    "convolution over time": counts(
        Run(lambda m, v: torch.conv_tbc(v, m.w, m.b), w=torch.randn(3, 4, 6), b=torch.zeros(6)),
        5 * 72,
        torch.randn(7, 1, 4),
    ),
    "embedding bag": counts(nn.EmbeddingBag(9, 4), 0, torch.tensor([[1, 2, 3]])),
    "in inference mode": counts(Run(torch.inference_mode()(lambda m, v: m.l(v)), l=nn.Linear(8, 6)), 5 * 48, x(5, 8)),
    "compiled": counts(torch.compile(nn.Linear(8, 6)), 5 * 48, x(5, 8)),
    "script": lambda: counts(torch.jit.script(nn.Sequential(nn.Linear(8, 6), nn.ReLU())), 48, x(8))(),
}

WEIGHTS = {
    "tied": counts(tied(), 2 * 64, x(8)),
    "tied, without a call": counts(
        Run(lambda m, v: functional.linear(m.a(v), m.b.weight), a=(pair := tied())[0], b=pair[2]), 128, x(8)
    ),
    "tied to its transpose": counts(
        Run(lambda m, v: functional.linear(m.a(v), m.a.weight.T), a=nn.Linear(8, 6)), 96, x(8)
    ),
    "tied to an embedding": counts(
        Run(lambda m, v: functional.linear(m.a(v), m.a.weight), a=nn.Embedding(9, 4)), 36, torch.tensor([3])
    ),
    "a layer used twice": counts(Run(lambda m, v: m.a(m.a(v)), a=nn.Linear(8, 8)), 128, x(8)),
    "all in one buffer": counts(in_one_buffer(nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 2))), 60, x(8)),
    "part of a weight": counts(Run(lambda m, v: functional.linear(v, m.w[:4]), w=W.clone()), 32, x(8)),
    "weight norm": counts(parametrizations.weight_norm(nn.Linear(8, 6)), 48, x(8)),
    "old weight norm": lambda: counts(nn.utils.weight_norm(nn.Conv1d(4, 6, 3)), 4 * 72, x(4, 6))(),
    "under a mask of torch": counts(with_hidden_zeros(), 48, x(8)),
    "under autocast": counts(
        Run(torch.autocast("cpu", torch.bfloat16)(lambda m, v: m.l(v)), l=nn.Linear(8, 6)), 48, x(8)
    ),
    "scaled before": counts(
        Run(lambda m, v: functional.linear(v, m.u * m.v), u=torch.randn(6, 8), v=torch.ones(8)), 48, x(8)
    ),
    "many copies": counts(Run(lambda m, v: v @ m.w.T.expand(3, 8, 6), w=W.clone()), 3 * 5 * 48, x(5, 8)),
}

UNCOUNTED = {
    "fft": names(Run(lambda _, v: torch.fft.rfft(v)), "fft", x(8)),
    "distances": names(Run(lambda _, v: torch.cdist(v, v)), "cdist", x(4, 8)),
    "an inverse": names(Run(lambda _, v: torch.linalg.inv(v @ v.mT)), "linalg_inv", x(4, 8)),
    "another library's": names(Run(lambda _, v: doubled(v)), "doubled", x(8)),
    "a quantised layer": lambda: names(quantised(), "linear_dynamic", x(8))(),
    "nothing to name": counts(
        nn.Sequential(
            *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.MaxPool2d(2), nn.Flatten(), nn.LayerNorm(16)),
            *(nn.Linear(16, 2), nn.Softmax(1)),
        ),
        16 * 108 + 32,
        x(3, 6, 6),
    ),
}

KINDS = [
    Kind("attention", "attention is not counted", "masks, grouped queries, fused layers", ATTENTION),
    Kind("recurrent", "recurrent layers are not counted right", "layers, directions, cells, packed", RECURRENT),
    Kind("products", "a product is not counted, or not by its weight", "functions, operators, modes", FUNCTIONS),
    Kind("weights", "a weight counts twice, not at all, or below zero", "tied, shared, computed weights", WEIGHTS),
    Kind("uncounted", "what can't be counted is left out without a word", "operators without a formula", UNCOUNTED),
]
