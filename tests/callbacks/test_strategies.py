from types import SimpleNamespace

import pytest
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy, SingleDeviceStrategy

from reflow_lightning.callbacks.strategies import check_strategy


def under(strategy):
    return SimpleNamespace(strategy=strategy)


def test_strategies_that_hide_the_weights_are_refused():
    with pytest.raises(ValueError, match=r"use strategy=FullyShard\(\)"):
        check_strategy(under(FSDPStrategy()))
    with pytest.raises(ValueError, match="DeepSpeed"):
        check_strategy(under(type("DeepSpeedStrategy", (), {})()))


def test_others_are_not():
    check_strategy(under(SingleDeviceStrategy("cpu")))
    for sizes in ((2, 1), (1, 2), (2, 2)):
        check_strategy(under(ModelParallelStrategy(*sizes)))
