import functools
import warnings
from collections import namedtuple

import pytest
import torch
from helpers import Terminal
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils.data import DataLoader
from tqdm import tqdm

import reflow_lightning.running.batches as batches_module
from reflow_lightning.running.batches import Batches, move

CPU = torch.device("cpu")


def test_nested_batches_keep_their_structure():
    pair = namedtuple("Pair", "x y")
    batch = {"a": [torch.ones(1), (torch.ones(2), "text")], "b": pair(torch.zeros(1), 3)}
    moved = move(batch, torch.device("meta"))
    assert moved["a"][1][0].is_meta
    assert moved["a"][1][1] == "text"
    assert isinstance(moved["b"], pair)
    assert moved["b"].x.is_meta
    assert moved["b"].y == 3


def test_take_stops_at_the_limit_without_asking_for_more():
    asked = []

    def source():
        for i in range(10):
            asked.append(i)
            yield torch.tensor(i)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batches = Batches(source(), 3, CPU, task="")
        assert len(list(batches)) == 3
        batches.check()
    assert asked == [0, 1, 2]


def test_a_short_loader_is_a_warning_that_says_what_to_do():
    batches = Batches([1, 2], 5, CPU, task="calibration")
    assert len(list(batches)) == 2
    with pytest.warns(UserWarning, match=r"calibration got 2 batches, all there were, instead of max_batches=5.*for 2"):
        batches.check()


def test_whoever_stops_reading_early_or_does_not_read_is_not_warned():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batches = Batches([1, 2], 5, CPU, task="calibration")
        batches.check()
        assert next(iter(batches)) == 1
        batches.check()


def test_a_single_tensor_is_an_error():
    with pytest.raises(TypeError, match=r"batches is a tensor of shape \(3, 2\): pass a loader or a list"):
        Batches(torch.ones(3, 2), 1, CPU, task="")


def test_what_gives_no_batches_is_an_error():
    with pytest.raises(TypeError, match="batches is a NoneType: pass a loader or a list of batches"):
        Batches(None, 1, CPU, task="")


def test_an_empty_loader_is_an_error():
    batches = Batches([], 5, CPU, task="calibration")
    assert list(batches) == []
    with pytest.raises(ValueError, match="batches=list gave no batch for calibration"):
        batches.check()


def test_each_iteration_is_a_new_pass_and_the_longest_counts():
    batches = Batches([1, 2, 3, 4], 3, CPU, task="calibration")
    assert next(iter(batches)) == 1
    assert [list(batches) for _ in range(2)] == [[1, 2, 3], [1, 2, 3]]
    assert next(iter(batches)) == 1
    assert batches.count == 3
    batches.check()


def test_a_pass_that_found_too_few_is_a_warning_even_if_a_later_one_stops_early():
    batches = Batches([1, 2], 3, CPU, task="calibration")
    assert list(batches) == [1, 2]
    assert next(iter(batches)) == 1
    with pytest.warns(UserWarning, match="calibration got 2 batches, all there were, instead of max_batches=3"):
        batches.check()


def test_an_iterator_can_be_read_once_only():
    class Loader:
        def __init__(self, source):
            self.source = source

        def __iter__(self):
            return self.source

    for source in (iter([1, 2, 3]), (i for i in range(3)), Loader(iter([1, 2, 3]))):
        batches = Batches(source, 2, CPU, task="calibration")
        assert len(list(batches)) == 2
        with pytest.raises(
            ValueError, match="pass a list or a loader, since this repair reads the batches several times"
        ):
            iter(batches)
        assert batches.count == 2


@pytest.mark.parametrize("limit", [2, 3, 4])
def test_an_iterator_that_begins_anew_can_be_read_again(limit):
    """As a loader's with persistent workers, which is the same one in each pass."""
    loader = DataLoader(torch.arange(6), 2, num_workers=1, persistent_workers=True)
    for given in (loader, CombinedLoader([loader])):
        batches = Batches(given, limit, CPU, task="calibration")
        passes = [sum(1 for _ in batches) for _ in range(3)]
        assert passes == [min(limit, 3)] * 3


def test_one_with_a_length_that_does_not_begin_anew_is_found_out():
    class Once:
        def __init__(self):
            self.left = [1, 2]

        def __len__(self):
            return 2

        def __iter__(self):
            return self

        def __next__(self):
            if not self.left:
                raise StopIteration
            return self.left.pop(0)

    batches = Batches(Once(), 2, CPU, task="calibration")
    assert list(batches) == [1, 2]
    with pytest.raises(ValueError, match="can be read only once"):
        list(batches)


def test_a_look_at_the_first_batch_draws_nothing_that_the_next_pass_does_not_give():
    drawn = []

    class Loader:
        def __iter__(self):
            for number in range(3):
                drawn.append(number)
                yield torch.full((1,), float(number))

    found = Batches(Loader(), 2, CPU, task="looking")
    assert [float(batch) for batch in found.first()] == [0.0]
    assert drawn == [0]
    assert [float(batch) for batch in found] == [0.0, 1.0]
    assert drawn == [0, 1]
    assert [float(batch) for batch in found.first()] == [0.0]
    assert drawn == [0, 1]


def test_a_look_does_not_make_an_iterator_one_that_can_be_read_twice():
    found = Batches(iter([torch.ones(1)] * 3), 2, CPU, task="looking")
    assert len(list(found.first())) == 1
    assert len(list(found)) == 2
    with pytest.raises(ValueError, match="can be read only once"):
        list(found)


def test_a_look_finds_nothing_where_nothing_is():
    assert list(Batches([], 2, CPU, task="looking").first()) == []


def test_auto_reads_no_more_than_200_and_asks_for_no_number():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for length, count in ((300, 200), (30, 30)):
            batches = Batches(range(length), "auto", CPU, task="calibration")
            assert len(list(batches)) == batches.count == count
            batches.check()


@pytest.mark.parametrize("shown", [True, False])
def test_a_long_pass_shows_a_bar_in_a_terminal(shown, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(batches_module, "tqdm", functools.partial(tqdm, file=terminal, mininterval=0))
    monkeypatch.setattr(batches_module, "BAR_DELAY", 0.0)
    assert len(list(Batches(range(5), 5, CPU, task="calibration", progress=shown))) == 5
    assert ("calibration" in terminal.getvalue()) == shown


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, None, "many"])
def test_a_limit_that_is_no_count_is_an_error(limit):
    with pytest.raises(ValueError, match="max_batches="):
        Batches([1], limit, CPU, task="")


@pytest.mark.parametrize(("there", "asked", "told"), [(9, 40, True), (10, 40, False), (16, 40, False), (9, 50, False)])
def test_many_batches_or_a_default_limit_are_no_news(there, asked, told, recwarn):
    batches = Batches([torch.ones(2)] * there, asked, CPU, task="calibration")
    list(batches)
    batches.check()
    assert any("all there were" in str(warning.message) for warning in recwarn) is told
