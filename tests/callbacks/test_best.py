"""What is called the best of a training is a pruned network, or a warning says that it is not."""

import warnings

import torch
from helpers import Module, loader, trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from reflow_lightning import OneShot, Reflow


class Scored(Module):
    """Is best in its first epoch."""

    def validation_step(self, batch, _):
        self.log("score", 1.0 / (1 + self.current_epoch))


def fit(folder, *callbacks, **arguments):
    best = ModelCheckpoint(folder, monitor="score", mode="max")
    reflow = Reflow(0.5, schedule=OneShot(epoch=2), repair="none", monitor=False, **arguments)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        runner = trainer(reflow, best, *callbacks, max_epochs=5, enable_checkpointing=True, num_sanity_val_steps=0)
        runner.fit(Scored(), loader(), loader())
    return best, runner, [str(w.message) for w in told if "best checkpoint" in str(w.message)]


def zeros_in(path):
    state = torch.load(path, weights_only=True)["state_dict"]
    return sum(int((value == 0).sum()) for name, value in state.items() if name.endswith("9.weight"))


def test_a_best_checkpoint_from_before_is_told(tmp_path):
    best, _, [text] = fit(tmp_path)
    assert "best checkpoint by 'score' is from before the pruning" in text
    assert zeros_in(best.best_model_path) == 0


def test_what_was_best_before_is_forgotten(tmp_path):
    best, _, told = fit(tmp_path, forget_best=True)
    assert told == []
    assert zeros_in(best.best_model_path) > 0
    assert best.best_model_score < 1


def test_early_stopping_waits_anew(tmp_path):
    _, stopped, _ = fit(tmp_path / "a", EarlyStopping("score", mode="max", patience=2))
    _, went_on, _ = fit(tmp_path / "b", EarlyStopping("score", mode="max", patience=2), forget_best=True)
    assert went_on.current_epoch > stopped.current_epoch
