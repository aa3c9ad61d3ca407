"""Which round is good enough, and which network a training returns to."""

import math
from dataclasses import asdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from zoo.convolutional import small_net

from reflow_lightning import Masks
from reflow_lightning.rounds import Kept, Rounds
from reflow_lightning.running.shards import Part

FEW = (0.0, 0.25, 0.5, 0.75, 1.0)  # many of them are equal
values = st.lists(st.lists(st.sampled_from(FEW) | st.just(math.nan), max_size=3), min_size=1, max_size=5)


def network(number):
    """One that can be told from others."""
    weight = torch.tensor([float(number)])
    return Kept({"weight": Part(weight, weight.shape)}, None)


def play(rounds, validations, resumed=False):
    """Go through rounds of validations until one is not good enough; the number of the network returned to."""
    number = 0
    for index, of_round in enumerate(validations):
        rounds.begin(1 - 0.5**index)
        for value in of_round:
            rounds.validated(value, epoch=number, step=10 * number, keep=lambda number=number: network(number))
            number += 1
            if resumed:
                state, rounds = rounds.state_dict(), Rounds(rounds.stop_on_drop, "max" if rounds.sign == 1 else "min")
                rounds.load_state_dict(state)
        if not rounds.judge():
            break
    kept = rounds.end()
    return None if kept is None else int(kept.state["weight"].values), rounds


def plain(validations, drop, sign):
    """The same as a plain loop over all of it."""
    scored = [[-math.inf if math.isnan(value) else sign * value for value in of_round] for of_round in validations]
    numbered, number = [], 0
    for of_round in scored:
        numbered.append([(value, number + i) for i, value in enumerate(of_round)])
        number += len(of_round)
    returned, baseline = None, None
    for index, of_round in enumerate(numbered):
        if not of_round:
            continue
        best, at = max(of_round)  # of equal ones the later
        if index == 0:
            baseline = best
        elif baseline is not None and not baseline - best <= drop:
            break
        returned = at
    return returned


@given(values, st.sampled_from([0.0, 0.25, 0.5, math.inf]), st.sampled_from(["max", "min"]), st.booleans())
def test_the_network_is_that_of_a_plain_loop_resumed_or_not(validations, drop, mode, resumed):
    returned, rounds = play(Rounds(drop, mode), validations, resumed)
    assert returned == plain(validations, drop, 1 if mode == "max" else -1)
    assert (rounds.returned.epoch if rounds.returned else None) == returned
    assert rounds.over


@given(values)
def test_without_a_drop_nothing_is_judged_or_kept(validations):
    returned, rounds = play(Rounds(None), validations)
    assert returned is None
    assert rounds.returned is None
    assert not rounds.is_done
    assert len(rounds.rows) == len(validations)


def test_the_rows_say_what_happened():
    _, rounds = play(Rounds(0.1), [[0.8, 0.9], [0.85, 0.7], [0.7, 0.75], [0.9]])
    assert [tuple(asdict(row).values()) for row in rounds.rows] == [
        (0, 0.0, 1, 10, 0.9, True),
        (1, 0.5, 2, 20, 0.85, True),
        (2, 0.75, 5, 50, 0.75, False),
    ]
    assert rounds.stopped
    assert rounds.returned == rounds.rows[1]


def test_what_comes_after_the_end_is_not_heard():
    _, rounds = play(Rounds(0.1), [[0.9], [0.85]])
    rows = rounds.rows
    rounds.validated(1.0, epoch=9, step=9, keep=lambda: pytest.fail("it is over"))
    assert rounds.rows == rows
    assert rounds.end() is None


def test_rounds_of_which_no_network_was_kept_are_not_returned_to():
    free, judged = Rounds(None), Rounds(0.1)
    free.begin(0.0)
    free.validated(0.9, epoch=0, step=0, keep=lambda: pytest.fail("nothing is kept"))
    judged.load_state_dict(free.state_dict())
    judged.begin(0.5)
    judged.validated(0.5, epoch=1, step=10, keep=lambda: network(1))
    assert not judged.judge()
    assert judged.end() is None
    assert judged.returned is None


def test_only_better_networks_are_copied():
    rounds, copied = Rounds(0.1), []
    rounds.begin(0.0)
    for number, value in enumerate((0.5, 0.4, 0.5, 0.6, math.nan)):
        rounds.validated(value, epoch=number, step=0, keep=lambda number=number: copied.append(number))
    assert copied == [0, 2, 3]


def test_a_kept_network_is_put_back_bit_for_bit_and_is_plain_in_a_checkpoint(tmp_path):
    net, other = small_net(), small_net()
    net(torch.randn(8, 1, 6, 6))  # running statistics
    masks = Masks({"0.weight": net[0].weight > 0})
    torch.save(Kept.of(net, masks).state_dict(), tmp_path / "kept.pt")
    kept = Kept.from_state_dict(torch.load(tmp_path / "kept.pt", weights_only=True))
    kept.put_back(other)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in net.state_dict().items())
    assert kept.masks == masks


def test_a_network_that_has_changed_is_left_as_it_is():
    net = small_net()
    kept = Kept.of(net, None)
    nn.init.zeros_(net[0].weight)
    net[9] = nn.Linear(8, 4)
    with pytest.raises(ValueError, match=r"'9\.weight' is missing now, or has another shape"):
        kept.put_back(net)
    assert not net[0].weight.any()
