"""What a checkpoint holds of Reflow, of this version, of an earlier and of a later one."""

import copy

import pytest
import torch
from scenarios.resuming import same

from reflow_lightning import Iterative, OneShot, Reflow
from reflow_lightning.running.formats import FormatError

MASKS = {
    "names": ["net.9.weight"],
    "shapes": [[3, 8]],
    "bits": torch.tensor([0b10101010, 0b01010101, 0b11111111], dtype=torch.uint8),
    "checksum": 4213830078,
}
LAST = {"step": 8, "epoch": 2, "fraction": 0.5}
ROW = {"number": 0, "sparsity": 0.0, "epoch": 1, "step": 8, "value": 0.75, "kept": True}
RUNNING = {"number": 1, "sparsity": 1 / 3, "epoch": None, "step": None, "value": None, "kept": False}
ROUNDS = {
    "rows": [ROW, RUNNING],
    "stopped": False,
    "over": False,
    "accepted": {"state": {"net.9.bias": torch.tensor([1.0, 2.0, 3.0])}, "masks": None},
    "best": None,
}
OLD = {"masks": MASKS, "last": LAST, "rounds": None}  # as version 0.1 wrote it
OLD_WITH_ROUNDS = {"masks": MASKS, "last": LAST, "rounds": ROUNDS}
OLDER = {"masks": MASKS, "last": LAST}  # from before there were rounds


def iterative():
    return Reflow(0.9, schedule=Iterative(stop_on_drop=0.1))


def without_formats(state):
    if not isinstance(state, dict):
        return state
    return {key: without_formats(value) for key, value in state.items() if key not in ("format", "arguments")}


@pytest.mark.parametrize("state", [OLD, OLDER])
def test_a_state_of_version_0_1_is_read(state):
    callback = Reflow(1 / 3, schedule=OneShot(epoch=2))
    callback.load_state_dict(copy.deepcopy(state))
    assert callback.completed
    assert callback.masks["net.9.weight"].tolist() == [[True, False] * 4, [False, True] * 4, [True] * 8]
    assert same(without_formats(callback.state_dict()), OLD)


def test_so_are_its_rounds():
    callback = iterative()
    callback.load_state_dict(copy.deepcopy(OLD_WITH_ROUNDS))
    assert [row.value for row in callback.rounds] == [0.75, None]
    assert same(without_formats(callback.state_dict()), OLD_WITH_ROUNDS)


def test_what_is_written_carries_its_number_and_is_read_again():
    first, second = iterative(), iterative()
    first.load_state_dict(copy.deepcopy(OLD_WITH_ROUNDS))
    state = first.state_dict()
    assert (state["format"], state["rounds"]["format"]) == (1, 1)
    second.load_state_dict(copy.deepcopy(state))
    assert same(second.state_dict(), state)


@pytest.mark.parametrize(
    ("newer", "text"),
    [
        ({"format": 2}, "states of Reflow of format 2, .* reads up to 1: upgrade it"),
        ({"rounds": ROUNDS | {"format": 7}}, "states of rounds of format 7"),
        ({"masks": MASKS | {"checksum": 1}}, "the masks were changed"),
    ],
    ids=["a newer state", "newer rounds", "damaged masks"],
)
def test_a_state_that_cannot_be_read_is_an_error_and_changes_nothing(newer, text):
    callback = iterative()
    callback.load_state_dict(copy.deepcopy(OLD_WITH_ROUNDS))
    before = callback.state_dict()
    with pytest.raises(ValueError, match=text) as error:
        callback.load_state_dict(copy.deepcopy(OLD_WITH_ROUNDS | newer))
    assert isinstance(error.value, FormatError) == ("format" in text)
    assert same(callback.state_dict(), before)


def test_kept_networks_of_rounds_with_damaged_masks_are_refused_too():
    callback = iterative()
    damaged = ROUNDS | {"best": {"state": {}, "masks": MASKS | {"checksum": 1}}}
    with pytest.raises(ValueError, match="the masks were changed"):
        callback.load_state_dict(copy.deepcopy(OLD | {"rounds": damaged}))
    assert (callback.rounds, callback.masks) == ((), None)
