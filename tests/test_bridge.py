from types import SimpleNamespace

import pytest
from helpers import Module, trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy, SingleDeviceStrategy

from reflow_lightning import bridge


def under(strategy):
    return SimpleNamespace(strategy=strategy)


def test_strategies_that_hide_the_weights_are_refused():
    with pytest.raises(ValueError, match="use ModelParallelStrategy, with fully_shard"):
        bridge.check_strategy(under(FSDPStrategy()))
    with pytest.raises(ValueError, match="tensor_parallel_size=2"):
        bridge.check_strategy(under(ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=2)))
    with pytest.raises(ValueError, match="DeepSpeed"):
        bridge.check_strategy(under(type("DeepSpeedStrategy", (), {})()))


def test_others_are_not():
    bridge.check_strategy(under(SingleDeviceStrategy("cpu")))
    bridge.check_strategy(under(ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)))


def test_averages_are_found_once_they_have_begun():
    averaging = StochasticWeightAveraging(0.01)
    runner = trainer(averaging)
    averaging._average_model = module = Module()
    assert bridge.averages(runner) == []
    averaging._initialized = True
    assert bridge.averages(runner) == [module]
