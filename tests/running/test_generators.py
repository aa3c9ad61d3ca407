import random

import numpy as np
import pytest
import torch
from torch import nn

from reflow_lightning.running.generators import RandomState, generators_in, seed_generator, set_state, state_of

KINDS = [
    (lambda: torch.Generator(), lambda g: torch.rand(3, generator=g).tolist()),
    (lambda: random.Random(5), lambda g: [g.random() for _ in range(3)]),
    (lambda: np.random.default_rng(5), lambda g: g.random(3).tolist()),
    (lambda: np.random.Generator(np.random.Philox(5)), lambda g: g.random(3).tolist()),
    (lambda: np.random.RandomState(5), lambda g: g.rand(3).tolist()),
]


@pytest.mark.parametrize(("make", "draw"), KINDS)
def test_generators_are_seeded_and_put_back(make, draw):
    generator = make()
    draw(generator)
    state = state_of(generator)
    expected = draw(generator)
    seed_generator(generator, 2**40 + 1)
    first = draw(generator)
    seed_generator(generator, 2**40 + 1)
    assert draw(generator) == first != expected
    set_state(generator, state)
    assert draw(generator) == expected


def test_a_generator_of_the_system_has_no_state():
    system = random.SystemRandom()
    seed_generator(system, 1)
    set_state(system, state_of(system))


def test_generators_are_found_wherever_a_module_holds_them():
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    held = [make() for make, _ in KINDS]
    model.first, model[0].more, model[1].deep = held[0], held[1:3], {"a": (held[3], [held[4]])}
    assert {id(g) for g in generators_in(model)} == {id(g) for g in held}


def test_the_states_of_all_generators_come_back():
    held = [make() for make, _ in KINDS]

    def drawn():
        own = [draw(generator) for generator, (_, draw) in zip(held, KINDS, strict=True)]
        return [random.random(), float(torch.rand(1)), float(np.random.rand()), *own]

    before = RandomState(held)
    first = drawn()
    before.restore()
    assert drawn() == first
