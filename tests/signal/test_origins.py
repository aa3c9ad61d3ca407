import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reflow_lightning.signal.origins import Origin, Piece, joined, moved_dim


@pytest.mark.parametrize(
    ("dim", "before", "after", "expected"),
    [
        (1, (2, 8, 5, 5), (2, 2, 4, 5, 5), 1),  # a reshape that splits the channels
        (2, (2, 4, 2, 5, 5), (2, 8, 5, 5), 1),  # and one that merges them
        (2, (2, 5, 8), (2, 8), 1),
        (1, (2, 8, 1, 1), (2, 8), 1),
        (0, (3,), (), 0),
    ],
)
def test_a_dimension_after_a_reshape(dim, before, after, expected):
    assert moved_dim(dim, before, after) == expected


TWO = (Piece("a", 1, 2), Piece("b", 2, 4))


def sizes(origin):
    return [(piece.layer, piece.size) for piece in origin.pieces]


@pytest.mark.parametrize(
    ("dim", "before", "after"),
    [
        (1, (3, 6, 4, 4), (3, 6, 4, 4)),  # normalised
        (1, (3, 6, 4, 4), (3, 6, 2, 2)),  # pooled
        (1, (3, 6, 4, 4), (3, 6, 16)),
        (1, (3, 6, 4, 4), (3, 6)),
        (1, (3, 6, 1, 1), (3, 6)),
        (1, (3, 6, 1, 1), (3, 6, 5, 5)),  # broadcast
        (2, (3, 5, 6), (15, 6)),
        (1, (15, 6), (3, 5, 6)),
        (1, (3, 6), (3, 1, 6)),
        (0, (6,), (1, 6)),
    ],
)
def test_pieces_stay_while_the_channels_do(dim, before, after):
    assert sizes(Origin(TWO, dim, before).moved(after)) == [("a", 2), ("b", 4)]


def test_a_flattened_channel_is_several_features():
    assert sizes(Origin(TWO, 1, (3, 6, 5, 5)).moved((3, 150))) == [("a", 50), ("b", 100)]


@pytest.mark.parametrize(
    ("dim", "before", "after", "size"),
    [
        (1, (3, 6, 4, 4), (3, 3, 4, 4), 3),  # a slice
        (1, (3, 6, 4, 4), (3, 3, 2, 4, 4), 3),  # a split
        (1, (3, 6, 4, 4), (3, 8, 4, 4), 8),  # padded
        (1, (3, 6), (3, 12), 12),  # repeated, in an order that is not known
        (2, (3, 5, 6), (3, 30), 30),  # flattened with the channels within
        (1, (3, 6, 4), (6, 12), 6),  # of the same size by chance
        (1, (3, 6), (), 1),
    ],
)
def test_where_the_number_of_channels_changes_all_are_the_deepest_layers(dim, before, after, size):
    assert sizes(Origin(TWO, dim, before).moved(after)) == [("b", size)]


def factorisations(number):
    if number == 1:
        return st.just(())
    factors = [n for n in range(2, number + 1) if number % n == 0]
    return st.sampled_from(factors).flatmap(lambda n: factorisations(number // n).map(lambda rest: (n, *rest)))


@given(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=4), st.data())
def test_a_piece_of_a_reshaped_activation_holds_nothing_of_another_layer(shape, data):
    dim = data.draw(st.integers(0, len(shape) - 1))
    first = data.draw(st.integers(0, shape[dim]))
    pieces = (Piece("0", 1, first), Piece("1", 1, shape[dim] - first))
    labels = torch.tensor([0] * first + [1] * (shape[dim] - first))
    labels = labels.view([-1 if i == dim else 1 for i in range(len(shape))]).expand(shape)
    after = tuple(data.draw(factorisations(math.prod(shape)).flatmap(lambda sizes: st.permutations((*sizes, 1)))))
    origin = Origin(pieces, dim, tuple(shape)).moved(after)
    assert sum(piece.size for piece in origin.pieces) == after[origin.dim]
    if len(origin.pieces) > 1:
        parts = labels.reshape(after).split([piece.size for piece in origin.pieces], origin.dim)
        assert all(bool((part == int(piece.layer)).all()) for piece, part in zip(origin.pieces, parts, strict=True))


def test_a_concatenation_has_the_pieces_of_all_operands():
    a, b = Origin.of("a", 1, 1, (3, 2)), Origin.of("b", 3, 1, (3, 4))
    both = joined([((3, 2), a), ((3, 4), b), ((3, 5), None)], 1, (3, 11))
    assert both == Origin((Piece("a", 1, 2), Piece("b", 3, 4), Piece(None, 0, 5)), 1, (3, 11))
    assert both.deepest.layer == "b"
    again = joined([((3, 11), both), ((3, 2), a)], 1, (3, 13))
    assert sizes(again) == [("a", 2), ("b", 4), (None, 5), ("a", 2)]


def test_neighbours_of_one_layer_are_one_piece():
    a, deeper = Origin.of("a", 1, 1, (3, 2)), Origin.of("a", 4, 1, (3, 2))
    assert joined([((3, 2), a), ((3, 2), deeper)], 1, (3, 4)).pieces == (Piece("a", 4, 4),)


def test_an_operand_with_other_channels_is_its_deepest_layers():
    a, b = Origin.of("a", 1, 2, (3, 7, 5)), Origin(TWO, 1, (3, 6, 5))
    assert sizes(joined([((3, 6, 5), b), ((3, 7, 5), a)], 1, (3, 13, 5))) == [("a", 2), ("b", 4), ("a", 7)]


def test_a_number_that_is_spread_over_a_tensor_has_its_last_dimension():
    assert moved_dim(0, (), (2, 8, 3)) == 2
