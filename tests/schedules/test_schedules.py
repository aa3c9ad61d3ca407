import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflow_lightning import Gradual, OneShot
from reflow_lightning.schedules import Length, Progress

LENGTH = Length(steps=100, epochs=10, known=True)
UNKNOWN = Length(steps=None, epochs=None, known=False)


def at(step):
    """Progress in a training of 10 epochs of 10 steps."""
    return Progress(step, step // 10, step / 100)


def run(schedule, moments=range(101), final=1.0):
    """Steps and sparsities of a whole training."""
    last, events = None, []
    for step in moments:
        if not schedule.finished(last, final) and schedule.due(at(step), last):
            last = at(step)
            events.append((step, schedule.sparsity(last, final)))
    assert schedule.finished(last, final)
    return events


@pytest.mark.parametrize(
    ("schedule", "step"),
    [
        (OneShot(), 0),
        (OneShot(step=0), 0),
        (OneShot(step=37), 37),
        (OneShot(epoch=3), 30),
        (OneShot(fraction=0.5), 50),
        (OneShot(fraction=1.0), 100),
    ],
)
def test_one_shot_happens_once_at_its_moment(schedule, step):
    schedule.check(LENGTH, 0.9)
    assert run(schedule, final=0.9) == [(step, 0.9)]


def test_a_moment_that_is_jumped_over_is_made_up_for():
    assert run(OneShot(step=37), range(0, 101, 5)) == [(40, 1.0)]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"step": 1, "epoch": 1}, "give one of step, epoch and fraction"),
        ({"step": -1}, r"OneShot\(step=-1\) must be a whole number"),
        ({"epoch": 1.5}, r"OneShot\(epoch=1.5\) must be a whole number"),
        ({"fraction": 1.5}, r"OneShot\(fraction=1.5\) must be in \[0, 1\]"),
    ],
)
def test_one_shot_arguments_are_checked(arguments, text):
    with pytest.raises(ValueError, match=text):
        OneShot(**arguments)


@pytest.mark.parametrize(
    ("schedule", "length", "text"),
    [
        (OneShot(step=101), LENGTH, "beyond the end of training, step 100"),
        (OneShot(epoch=10), LENGTH, "beyond the last epoch, 9"),
        (OneShot(fraction=0.5), UNKNOWN, r"known length: set Trainer\(max_epochs"),
        (Gradual(), UNKNOWN, r"known length: set Trainer\(max_epochs"),
    ],
)
def test_schedules_that_never_come_are_errors(schedule, length, text):
    with pytest.raises(ValueError, match=text):
        schedule.check(length, 0.9)


def test_schedules_that_need_no_length_accept_an_unknown_one():
    for schedule in (OneShot(), OneShot(step=10**9), OneShot(epoch=10**9), OneShot(fraction=0.0)):
        schedule.check(UNKNOWN, 0.9)


def test_gradual_follows_zhu_and_gupta():
    begin, end, every, final = 20, 70, 10, 0.9
    schedule = Gradual(begin=begin / 100, end=end / 100, every_n_steps=every)
    events = run(schedule, final=final)
    n = (end - begin) // every
    expected = [(begin + i * every, final + (0 - final) * (1 - (i * every) / (n * every)) ** 3) for i in range(n + 1)]
    assert [step for step, _ in events] == [step for step, _ in expected]
    assert [s for _, s in events] == pytest.approx([s for _, s in expected])


def test_gradual_by_epochs_is_the_default():
    assert [step for step, _ in run(Gradual(end=0.5))] == [0, 10, 20, 30, 40, 50]
    assert [step for step, _ in run(Gradual(end=0.5, every_n_epochs=2))] == [0, 20, 40, 50]


@given(st.floats(0, 0.9), st.floats(0.01, 1), st.integers(1, 40), st.sampled_from(["cubic", "linear"]))
def test_gradual_never_falls_and_ends_exactly(begin, width, every, curve):
    end = min(1.0, begin + width)
    schedule = Gradual(begin=begin, end=end, every_n_steps=every, curve=curve)
    sparsities = [sparsity for _, sparsity in run(schedule, final=0.9)]
    assert sparsities == sorted(sparsities)
    assert sparsities[-1] == 0.9
    assert all(0 <= sparsity <= 0.9 for sparsity in sparsities)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"begin": 0.5, "end": 0.5}, "fractions of the training"),
        ({"end": 1.5}, "0 <= begin < end <= 1"),
        ({"every_n_steps": 1, "every_n_epochs": 1}, "give one of them"),
        ({"every_n_steps": 0}, r"every_n_steps=0\) must be a whole number"),
        ({"curve": "square"}, r"curve='square'\) is unknown: use one of \['cubic', 'linear'\]"),
    ],
)
def test_gradual_arguments_are_checked(arguments, text):
    with pytest.raises(ValueError, match=text):
        Gradual(**arguments)
