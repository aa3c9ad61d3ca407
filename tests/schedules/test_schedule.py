"""What a schedule of one's own must have, so that it fails when it is made and not in the middle of a training."""

from dataclasses import dataclass

import pytest
from helpers import Module, loader, trainer, zeros

from reflow_lightning import Gradual, Iterative, OneShot, Reflow
from reflow_lightning.schedules import RoundRule, check_schedule, rounds_of


@dataclass(frozen=True)
class Halves:
    """Half of the sparsity at the start, all of it after an epoch."""

    def check(self, length, sparsity):
        if length.epochs == 1:
            raise ValueError(f"Halves() gets to {sparsity / 2} in one epoch: train longer")

    def due(self, now, last):
        return last is None or now.epoch > last.epoch

    def sparsity(self, now, final):
        return final if now.epoch else final / 2

    def finished(self, last, final):
        return last is not None and last.epoch > 0


@dataclass(frozen=True)
class Late(Halves):
    """Nothing, and then all of it; so a pattern can be reached with it."""

    allows_pattern = True

    def due(self, now, last):
        return last is None and now.epoch == 1


@dataclass(frozen=True)
class OfVersion01:
    """As schedules were written for version 0.1."""

    def check(self, length):
        pass

    def due(self, now, last):
        return last is None

    def share(self, now):
        return 1.0

    def finished(self, last):
        return last is not None


class WithoutEnd(Halves):
    finished = None


def fit(callback, module=None, **options):
    trainer(callback, **options).fit(module or Module(), loader())
    return callback


def test_ones_own_schedule_is_trained_by():
    callback = Reflow(0.8, schedule=Halves(), calibration_batches=2)
    fit(callback, module := Module(), max_epochs=3)
    assert [(event.step, round(event.sparsity, 2)) for event in callback.events] == [(0, 0.4), (4, 0.8)]
    assert callback.completed
    assert zeros(module) == round(0.8 * 672)


def test_it_is_checked_against_the_training():
    with pytest.raises(ValueError, match=r"Halves\(\) gets to 0.4 in one epoch"):
        fit(Reflow(0.8, schedule=Halves()), max_epochs=1)


@pytest.mark.parametrize("schedule", [Halves(), Gradual(), Iterative()], ids=repr)
def test_a_schedule_that_does_not_allow_a_pattern_is_refused_with_one(schedule):
    with pytest.raises(ValueError, match=r"pattern='2:4' can't be reached gradually, as schedule=.* use schedule=OneS"):
        Reflow(0.8, schedule=schedule, pattern="2:4")
    Reflow(0.8, schedule=schedule)


@pytest.mark.parametrize("schedule", [OneShot(step=2), Late()], ids=repr)
def test_one_that_does_is_not(schedule):
    assert Reflow(0.8, schedule=schedule, pattern="2:4").pruner.spec.pattern == "2:4"


@pytest.mark.parametrize("pattern", [None, "2:4"])
def test_a_schedule_of_version_0_1_is_refused_and_told_what_to_write(pattern):
    needed = r"OfVersion01\(\) needs check\(length, sparsity\), sparsity\(now, final\), finished\(last, final\), "
    with pytest.raises(ValueError, match=needed + r"the absolute sparsity in the place of share\(now\): write what"):
        Reflow(0.8, schedule=OfVersion01(), pattern=pattern)


def test_with_a_pattern_the_message_says_what_that_needs():
    with pytest.raises(ValueError, match=r"allows_pattern = True if it can reach pattern='2:4'"):
        Reflow(0.8, schedule=OfVersion01(), pattern="2:4")


@pytest.mark.parametrize("schedule", ["one_shot", None, 3, OneShot, Halves])
def test_what_is_no_schedule_is_refused(schedule):
    with pytest.raises(
        ValueError,
        match=r"schedule=.* (must be a schedule: OneShot|is a class: pass an)",
    ):
        check_schedule(schedule, None)


def test_a_schedule_that_lacks_a_method_is_refused():
    with pytest.raises(ValueError, match=r"WithoutEnd.* needs finished\(last, final\): write what"):
        check_schedule(WithoutEnd(), None)


def test_a_schedule_says_itself_how_its_rounds_are_judged():
    assert rounds_of(Iterative(every_n_epochs=3, stop_on_drop=0.1)) == RoundRule(3, 0.1, "val/accuracy", "max")
    assert rounds_of(OneShot()) is rounds_of(Gradual()) is rounds_of(Halves()) is None


def test_rounds_of_ones_own_schedule_are_recorded():
    class Judged(Halves):
        rounds = RoundRule(every_n_epochs=1, stop_on_drop=None, monitor="zeros", mode="max")

    callback = Reflow(0.8, schedule=Judged(), calibration_batches=2)
    trainer(callback, max_epochs=3).fit(Module(), loader(), loader(32, shuffle=False))
    assert [(row.number, round(row.sparsity, 2)) for row in callback.rounds] == [(0, 0.0), (1, 0.4), (2, 0.8)]
