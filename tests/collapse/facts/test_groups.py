import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reflow_lightning.collapse.facts.groups import Axis, Groups, along, rows, spread, thin

NUMBERS = st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=15)


def reference(pairs, count):
    sets = [{n} for n in range(count)]
    for a, b in pairs:
        first, second = (next(s for s in sets if n in s) for n in (a, b))
        if first is not second:
            sets.remove(second)
            first |= second
    return sets


@settings(deadline=None, max_examples=50)
@given(st.lists(NUMBERS, max_size=4))
def test_numbers_are_the_same_if_and_only_if_pairs_connect_them(rounds):
    groups = Groups()
    groups.new(12)
    for pairs in rounds:
        groups.unite(
            torch.tensor([a for a, _ in pairs], dtype=torch.int64),
            torch.tensor([b for _, b in pairs], dtype=torch.int64),
        )
    for connected in reference([pair for pairs in rounds for pair in pairs], 12):
        roots = {groups.find(n) for n in connected}
        assert len(roots) == 1
        assert roots <= connected


def test_new_numbers_follow_the_old_ones_and_stand_alone():
    groups = Groups()
    assert groups.new(2).tolist() == [0, 1]
    groups.unite(torch.tensor([0]), torch.tensor([1]))
    assert groups.new(2).tolist() == [2, 3]
    assert groups.find_all(torch.tensor([[0, 1], [2, 3]])).tolist() == [[0, 0], [2, 3]]


def test_the_channel_dimension_is_the_only_one_along_which_numbers_vary():
    numbers = torch.tensor([4, 7, 7])
    spread_out = spread(Axis(1, numbers), (2, 3, 5))
    found = along(spread_out)
    assert found.dim == 1
    assert found.numbers.tolist() == [4, 7, 7]
    assert along(torch.arange(6).view(2, 3)) is None
    assert along(torch.zeros(2, 3)) is None
    assert along(torch.zeros(0, 3)) is None


def test_a_pinned_number_pins_all_that_are_the_same():
    groups = Groups()
    groups.new(3)
    groups.unite(torch.tensor([0]), torch.tensor([2]))
    groups.pin(torch.tensor([2]), "a reason")
    groups.pin(torch.tensor([0, 1]), "another")
    assert groups.is_pinned(torch.arange(3)).all()
    assert [groups.reason(n) for n in range(3)] == ["a reason", "another", "a reason"]
    groups.unite(groups.new(1), torch.tensor([1]))
    assert groups.reason(3) == "another"
    groups.unite(torch.tensor([3]), torch.tensor([0]))
    assert groups.reason(1) == "a reason"
    assert groups.reason(int(groups.new(1))) is None


def test_what_repeats_itself_is_looked_at_once():
    numbers = spread(Axis(1, torch.arange(3)), (2, 3, 1000))
    assert thin(numbers).shape == (1, 3, 1)
    assert rows(numbers, 1).tolist() == [[0], [1], [2]]
    assert rows(numbers, 0).tolist() == [[0, 1, 2]] * 2
    assert rows(numbers.contiguous(), 1).shape == (3, 2000)
    groups = Groups()
    groups.new(3)
    found = groups.find_all(numbers)
    assert torch.equal(found, numbers)
    assert found.untyped_storage().nbytes() == 3 * 8


def test_uniting_views_unites_all_that_they_show():
    groups = Groups()
    channels, positions = groups.new(3), groups.new(4)
    groups.unite(spread(Axis(0, channels), (3, 4)), spread(Axis(1, positions), (3, 4)))
    assert groups.find_all(torch.arange(7)).tolist() == [0] * 7
    assert groups.is_pinned(spread(Axis(0, channels), (3, 4))).shape == (3, 4)
