from types import SimpleNamespace

import pytest
from helpers import Module, loader, trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy, SingleDeviceStrategy

from reflow_lightning import Reflow
from reflow_lightning.callbacks import trainer as asking


def under(strategy):
    return SimpleNamespace(strategy=strategy)


def test_strategies_that_hide_the_weights_are_refused():
    with pytest.raises(ValueError, match="use ModelParallelStrategy, with fully_shard"):
        asking.check_strategy(under(FSDPStrategy()))
    with pytest.raises(ValueError, match="tensor_parallel_size=2"):
        asking.check_strategy(under(ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=2)))
    with pytest.raises(ValueError, match="DeepSpeed"):
        asking.check_strategy(under(type("DeepSpeedStrategy", (), {})()))


def test_others_are_not():
    asking.check_strategy(under(SingleDeviceStrategy("cpu")))
    asking.check_strategy(under(ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)))


def test_averages_are_found_once_they_have_begun():
    averaging = StochasticWeightAveraging(0.01)
    runner = trainer(averaging)
    averaging._average_model = module = Module()
    assert asking.averages(runner) == []
    averaging._initialized = True
    assert asking.averages(runner) == [module]


def test_as_many_batches_as_needed_are_no_more_than_the_trainer_is_limited_to():
    callback = Reflow(0.5, calibration_batches="auto")
    with pytest.warns(UserWarning, match="calibration got 2 batches, too few for precise statistics"):
        trainer(callback, limit_train_batches=2, max_epochs=1).fit(Module(), loader())
    assert callback.events[0].calibration.batches == 2
    callback = Reflow(0.5, calibration_batches="auto", calibration_data="val", monitor=False)
    with pytest.warns(UserWarning, match="calibration got 1 batches, too few for precise statistics"):
        trainer(callback, limit_val_batches=1, num_sanity_val_steps=0, max_epochs=1).fit(Module(), loader(), loader())
    assert callback.events[0].calibration.batches == 1
