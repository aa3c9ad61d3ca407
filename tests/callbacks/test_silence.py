import pytest
from helpers import Module, trainer

from reflow_lightning.callbacks.silence import silent


def replaced(module):
    return [name for name in ("log", "optimizers") if name in vars(module)]


def test_a_module_neither_logs_nor_steps_meanwhile():
    module, runner = Module(), trainer()
    module.print = own = module.print
    with silent(runner, module):
        assert module.print is not own
        module.log("loss", 1)
        with pytest.raises(RuntimeError, match="may not step"):
            module.optimizers()
    assert replaced(module) == []
    assert module.print is own


@pytest.mark.parametrize("first", [0, 1])
def test_passes_that_overlap_put_all_back_after_the_last(first):
    module, runner = Module(), trainer()
    passes = [silent(runner, module), silent(runner, module)]
    for one in passes:
        one.__enter__()
    passes[first].__exit__(None, None, None)
    assert replaced(module) == ["log", "optimizers"]
    passes[1 - first].__exit__(None, None, None)
    assert replaced(module) == []
    assert module._trainer is None
