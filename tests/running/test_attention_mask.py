"""What a batch or the user says of padding: the same results as without the padding."""

from __future__ import annotations

import copy
from dataclasses import astuple
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reflow_lightning import calibrate, measure_signal, prune
from reflow_lightning.layers.padding import Padding
from reflow_lightning.running.alike import Alike
from reflow_lightning.running.attention_mask import Around, WithAttentionMask, attention_mask
from reflow_lightning.running.forward import default_forward
from reflow_lightning.signal import measure_entropy

MASK = torch.tensor([[1, 1, 0], [1, 0, 0]])
IDS = torch.tensor([[3, 4, 0], [5, 0, 0]])


class Text(nn.Module):
    """The mean over real tokens: what stands in padded positions cannot change the output, and nothing tells it."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.up, self.act = nn.Embedding(50, 16), nn.Linear(16, 32), nn.ReLU()
        self.down, self.head = nn.Linear(32, 16), nn.Linear(16, 2)

    def forward(self, ids: Tensor) -> Tensor:
        data = (ids != 0).unsqueeze(-1)
        states = self.down(self.act(self.up(self.words(ids)))) * data
        mean: Tensor = self.head(states.sum(1) / data.sum(1))
        return mean


TOLD = WithAttentionMask(lambda ids: ids != 0)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Text()


@pytest.fixture
def words() -> Tensor:
    return torch.randint(1, 50, (64, 8), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def padded(words: Tensor) -> Tensor:
    return nn.functional.pad(words, (0, 24))


def pruned(model: nn.Module, batch: Tensor, criterion: str) -> nn.Module:
    found = copy.deepcopy(model)
    data: dict[str, Any] = {"batches": [batch], "forward": TOLD} if criterion == "wanda" else {}
    prune(found, 0.7, criterion=criterion, include=["up*", "down*"], **data)
    return found


@pytest.mark.parametrize("criterion", ["magnitude", "wanda"])
@pytest.mark.parametrize("repair", ["moments", "reconstruct", "reselect"])
def test_repairs_are_equal_with_and_without_padding(
    model: nn.Module, words: Tensor, padded: Tensor, repair: str, criterion: str
) -> None:
    outputs = []
    for batch in (words, padded):
        network = pruned(model, batch, criterion)
        calibrate(network, [batch], repair=repair, reference=model, forward=TOLD)
        outputs.append(network(words))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=1e-6)


def test_padding_that_nobody_tells_makes_a_difference(model: nn.Module, words: Tensor, padded: Tensor) -> None:
    bare, counted = (measure_entropy(model, [batch]).rows[0].entropy for batch in (words, padded))
    assert abs(bare - counted) > 0.1


def test_measurements_are_equal_with_and_without_padding(model: nn.Module, words: Tensor, padded: Tensor) -> None:
    network = pruned(model, words, "magnitude")
    bare, told = (measure_signal(network, [b], reference=model, forward=TOLD) for b in (words, padded))
    assert len(bare.rows) == len(told.rows) > 0
    for one, other in zip(bare.rows, told.rows, strict=True):
        assert astuple(one) == pytest.approx(astuple(other), abs=1e-6, nan_ok=True), one.name
    entropies = [measure_entropy(network, [b], forward=TOLD).rows[0].entropy for b in (words, padded)]
    assert entropies[0] == pytest.approx(entropies[1], abs=1e-12)


@pytest.mark.parametrize(
    "batch",
    [
        {"input_ids": IDS, "attention_mask": MASK},
        ({"input_ids": IDS, "attention_mask": MASK.bool()}, torch.zeros(2)),
        {"attention_mask": torch.where(MASK == 1, 0.0, -torch.inf)},
        {"attention_mask": torch.where(MASK == 1, 0.0, torch.finfo(torch.float32).min)},
    ],
)
def test_the_mask_of_a_mapping_is_read(batch: Any) -> None:
    found = attention_mask(default_forward, batch)
    assert found is not None
    assert torch.equal(found, MASK.bool())


@pytest.mark.parametrize("batch", [IDS, (IDS, MASK), {"input_ids": IDS}, {"attention_mask": None}, [], None])
def test_nothing_is_known_where_nobody_says_it(batch: Any) -> None:
    assert attention_mask(default_forward, batch) is None


@pytest.mark.parametrize("mask", ["batch[1]", lambda batch: batch[1]])
def test_the_user_says_where_the_mask_is(mask: Any) -> None:
    forward = WithAttentionMask(mask, "batch[0]")
    found = attention_mask(Alike().forward(Around(forward, forward)), (IDS, MASK))
    assert found is not None
    assert torch.equal(found, MASK.bool())
    assert torch.equal(forward(nn.Identity(), (IDS, MASK)), IDS)


def test_what_the_user_says_goes_before_the_batch() -> None:
    forward = WithAttentionMask(lambda batch: batch["input_ids"] != 4)
    found = attention_mask(forward, {"input_ids": IDS, "attention_mask": MASK})
    assert found is not None
    assert torch.equal(found, IDS != 4)


@pytest.mark.parametrize(
    ("read", "words"),
    [(lambda _: torch.ones(2, 1, 3), "shape (2, 1, 3)"), (lambda _: None, "NoneType"), (lambda _: [[1]], "a list")],
)
def test_what_is_no_mask_is_refused_before_anything_is_changed(model: nn.Module, read: Any, words: str) -> None:
    network = pruned(model, IDS, "magnitude")
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(ValueError, match="WithAttentionMask") as raised:
        calibrate(network, [IDS], repair="moments", reference=model, forward=WithAttentionMask(read))
    assert words in str(raised.value)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_mask_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"attention_mask has shape \(2, 2\), but input_ids has \(2, 3\)"):
        attention_mask(default_forward, {"input_ids": IDS, "attention_mask": MASK[:, :2]})


def test_a_mask_that_says_more_than_padding_is_named() -> None:
    with pytest.warns(UserWarning, match=r"attention_mask of shape \(2, 1, 3, 3\).*WithAttentionMask"):
        assert attention_mask(default_forward, {"input_ids": IDS, "attention_mask": torch.ones(2, 1, 3, 3)}) is None


def test_a_sequence_of_padding_alone_is_named() -> None:
    with pytest.warns(UserWarning, match="1 of 2 sequences in a batch are padding and nothing else"):
        attention_mask(default_forward, {"attention_mask": torch.tensor([[1, 1], [0, 0]])})


@pytest.mark.parametrize("mask", [3, None])
def test_a_mask_is_read_by_a_function_or_a_text(mask: Any) -> None:
    with pytest.raises(ValueError, match="must be a function of a batch"):
        WithAttentionMask(mask)


@pytest.mark.parametrize("ids", [IDS, IDS + 1])
def test_a_mask_that_is_added_to_scores_may_mask_nothing(ids: Tensor) -> None:
    forward = WithAttentionMask(lambda ids: torch.zeros(ids.shape).masked_fill(ids == 0, -torch.inf))
    found = attention_mask(forward, ids)
    assert found is not None
    assert torch.equal(found, ids != 0)


class Joined(Text):
    """Joins the sequences to rows between its linear layers, as OPT does."""

    def forward(self, ids: Tensor) -> Tensor:
        data = (ids != 0).unsqueeze(-1)
        states = self.down(self.act(self.up(self.words(ids).flatten(0, 1)))).unflatten(0, ids.shape) * data
        mean: Tensor = self.head(states.sum(1) / data.sum(1))
        return mean


def test_padding_does_not_count_in_sequences_that_are_joined(words: Tensor, padded: Tensor) -> None:
    torch.manual_seed(0)
    model = Joined()
    bare, told = (pruned(model, batch, "wanda") for batch in (words, padded))
    assert torch.equal(bare.up.weight, told.up.weight)
    for repair in ("moments", "reconstruct"):
        networks = [copy.deepcopy(bare), copy.deepcopy(bare)]
        for network, batch in zip(networks, (words, padded), strict=True):
            calibrate(network, [batch], repair=repair, reference=model, forward=TOLD)
        torch.testing.assert_close(networks[0](words), networks[1](words), rtol=0, atol=1e-6)


def test_the_mask_of_an_encoder_is_not_laid_over_a_decoder() -> None:
    model = nn.Linear(2, 2)
    model.config = type("Config", (), {"is_encoder_decoder": True})()
    batch = {"input_ids": IDS, "attention_mask": MASK}
    with pytest.warns(UserWarning, match="an encoder with a decoder"):
        assert Padding(model).of(model, batch, default_forward).of(2, 3) is None
