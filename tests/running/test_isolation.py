import contextlib
import random

import numpy as np
import pytest
import torch
from zoo.convolutional import small_net

from reflow_lightning.running.isolation import isolated_rng, only_training


def draws():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


@pytest.mark.parametrize("seed", [None, 7])
def test_the_random_state_is_what_it_was_even_after_an_error(seed):
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = draws()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with contextlib.suppress(RuntimeError), isolated_rng(seed):
        draws()
        raise RuntimeError
    assert draws() == expected


def test_a_seed_decides_the_block():
    with isolated_rng(3):
        first = draws()
    draws()
    with isolated_rng(3):
        assert draws() == first


def test_every_flag_is_what_it_was_even_after_an_error():
    model = small_net().train()
    model[1].eval()
    flags = [module.training for module in model.modules()]
    with contextlib.suppress(RuntimeError), only_training(model, [model[5]]):
        assert [name for name, module in model.named_modules() if module.training] == ["5"]
        raise RuntimeError
    assert [module.training for module in model.modules()] == flags
