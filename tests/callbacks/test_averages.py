from helpers import Module, trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging

from reflow_lightning.callbacks.averages import averages_in


def test_averages_are_found_once_they_have_begun():
    averaging = StochasticWeightAveraging(0.01)
    runner = trainer(averaging)
    averaging._average_model = module = Module()
    assert averages_in(runner) == []
    averaging._initialized = True
    assert averages_in(runner) == [module]
