import pytest
from helpers import Module, loader, trainer

from reflow_lightning import Reflow


def test_as_many_batches_as_needed_are_no_more_than_the_trainer_is_limited_to():
    callback = Reflow(0.5, calibration_batches="auto")
    with pytest.warns(UserWarning, match="calibration got 2 batches, too few for precise statistics"):
        trainer(callback, limit_train_batches=2, max_epochs=1).fit(Module(), loader())
    assert callback.events[0].calibration.batches == 2
    callback = Reflow(0.5, calibration_batches="auto", calibration_data="val", monitor=False)
    with pytest.warns(UserWarning, match="calibration got 1 batches, too few for precise statistics"):
        trainer(callback, limit_val_batches=1, num_sanity_val_steps=0, max_epochs=1).fit(Module(), loader(), loader())
    assert callback.events[0].calibration.batches == 1
