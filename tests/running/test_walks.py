import random
import threading
from contextlib import suppress

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from reflow_lightning.running.walks import RunsThroughError, Surroundings, Walk, check_no_walk, current_walk


def stopping(times, told):
    def run():
        for number in range(times):
            told.append(current_walk().stop(number))

    return run


def test_walks_take_turns():
    told = []
    one, other = Walk(stopping(2, told)), Walk(stopping(1, told))
    for walk, answer in ((one, None), (other, None), (one, "a"), (other, "b"), (one, "c")):
        walk.go(answer)
    assert told == ["a", "b", "c"]
    assert one.over
    assert other.over


def test_there_is_no_walk_outside_of_one():
    assert current_walk() is None
    check_no_walk()


def test_what_must_run_through_is_refused_in_a_walk():
    with pytest.raises(RunsThroughError):
        Walk(check_no_walk).go()


def test_an_error_is_raised_where_the_walk_was_told_to_go_on():
    def run():
        current_walk().stop(0)
        raise ZeroDivisionError

    walk = Walk(run)
    walk.go()
    with pytest.raises(ZeroDivisionError):
        walk.go()
    assert walk.over


@pytest.mark.parametrize("stops", [0, 1, 2])
def test_an_ended_walk_leaves_no_thread(stops):
    before, left = threading.active_count(), []

    def run():
        try:
            while True:
                with suppress(Exception):  # no handler of a model stops it
                    current_walk().stop(0)
        finally:
            left.append(True)

    walk = Walk(run)
    for _ in range(stops):
        walk.go()
    walk.end()
    assert walk.over
    assert threading.active_count() == before
    assert bool(left) == (stops > 0)


def test_a_walk_that_is_interrupted_stands_still_before_ctrl_c_is_raised(monkeypatch):
    reached = []

    def run():
        current_walk().stop(0)
        reached.append(1)
        current_walk().stop(1)

    walk, waits = Walk(run), []
    walk.go()

    class Interrupted:
        def __init__(self, semaphore):
            self.semaphore = semaphore

        def acquire(self):
            waits.append(1)
            if len(waits) == 1:
                raise KeyboardInterrupt
            return self.semaphore.acquire()

        def release(self):
            self.semaphore.release()

    monkeypatch.setattr(walk, "_halted", Interrupted(walk._halted))
    with pytest.raises(KeyboardInterrupt):
        walk.go()
    assert len(waits) == 2
    walk.end()
    assert threading.active_count() == 1 or not walk._thread.is_alive()


def drawn():
    return [random.random(), float(np.random.rand()), float(torch.rand(1))]


def test_each_walk_has_random_numbers_of_its_own():
    state = torch.get_rng_state()
    expected = [*drawn(), *drawn()]
    torch.set_rng_state(state)
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    first, second = drawn(), drawn()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    found = []

    def run():
        found.append(drawn())
        current_walk().stop(0)
        found.append(drawn())

    walks = [Walk(run), Walk(run)]
    for walk in walks * 2:
        walk.go()
    assert found == [first, first, second, second]
    assert drawn() == first
    assert len(expected) == 6


def test_a_walk_runs_in_the_surroundings_that_it_was_made_in():
    class Seen(TorchFunctionMode):
        names = ()

        def __torch_function__(self, func, types, args=(), kwargs=None):
            self.names = (*self.names, func.__name__)
            return func(*args, **(kwargs or {}))

    found = []

    def run():
        found.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")))
        torch.zeros(1).relu()

    Walk(run).go()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.float16), Seen() as seen:
        Walk(run).go()
        with Surroundings().entered():
            run()
    with torch.inference_mode():
        Walk(run).go()
    assert found == [(True, False, False), (False, False, True), (False, False, True), (False, True, False)]
    assert seen.names.count("relu") >= 2


def test_settings_that_a_walk_changes_are_its_own():
    def run():
        with sdpa_kernel(SDPBackend.MATH):
            torch.set_default_dtype(torch.float64)
            current_walk().stop(torch.ones(1).dtype)
            torch.set_default_dtype(torch.float32)

    enabled = torch.backends.cuda.flash_sdp_enabled()
    walks = [Walk(run), Walk(run)]
    for walk in walks:
        walk.go()
        assert walk.at == torch.float64
        assert torch.get_default_dtype() == torch.float32
        assert torch.backends.cuda.flash_sdp_enabled() == enabled
    for walk in walks:  # not in the order of contexts within each other
        walk.go()
    assert torch.get_default_dtype() == torch.float32
    assert torch.backends.cuda.flash_sdp_enabled() == enabled
