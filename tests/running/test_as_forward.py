"""A forward pass is a function, a step of the module, or a text that says what the model is called with."""

import pickle
from collections import namedtuple

import pytest
import torch
from torch import nn

from reflow_lightning import Pruner, calibrate, measure_signal
from reflow_lightning.running.as_forward import as_forward
from reflow_lightning.running.forward import default_forward


class Notes(nn.Module):
    def forward(self, *args, **kwargs):
        return args, kwargs

    def training_step(self, batch, batch_idx):
        return batch, batch_idx

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        return batch, batch_idx, dataloader_idx

    def predict_step(self, batch):
        return batch


BATCH = namedtuple("Batch", "x y")("x", "y")


@pytest.mark.parametrize(
    ("text", "batch", "args", "kwargs"),
    [
        ("batch", [1, 2], ([1, 2],), {}),
        ("batch[1]", [1, 2], (2,), {}),
        ("batch[-1]", [1, 2], (2,), {}),
        ("batch['a']['b']", {"a": {"b": 3}}, (3,), {}),
        ("batch.x", BATCH, ("x",), {}),
        ("*batch", [1, 2], (1, 2), {}),
        ("*batch[:2]", [1, 2, 3], (1, 2), {}),
        ("batch[::2]", [1, 2, 3], ([1, 3],), {}),
        ("**batch", {"a": 1}, (), {"a": 1}),
        ("batch[0], mask=batch[1]", [1, 2], (1,), {"mask": 2}),
        ("batch['x'], **batch['rest']", {"x": 1, "rest": {"y": 2}}, (1,), {"y": 2}),
    ],
)
def test_a_text_says_what_the_model_is_called_with(text, batch, args, kwargs):
    forward = as_forward(text)
    assert forward(Notes(), batch) == (args, kwargs)
    assert pickle.loads(pickle.dumps(repr(forward))) == repr(text)


@pytest.mark.parametrize(
    ("name", "output"), [("training_step", (5, 0)), ("validation_step", (5, 0, 0)), ("predict_step", 5)]
)
def test_a_step_is_called_as_if_for_the_first_batch(name, output):
    assert as_forward(name)(Notes(), 5) == output


@pytest.mark.parametrize(
    "text",
    ["", "batch[", "model", "batch[i]", "__import__('os')", "batch.__class__", "batch + 1", "batch())", "a_step", 3],
)
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match=r"forward=.* must be a function \(model, batch\), 'training_step'"):
        as_forward(text)


def test_nothing_is_the_default():
    assert as_forward(None) is default_forward


def test_a_step_that_is_missing_is_named():
    with pytest.raises(ValueError, match="forward='test_step', but Notes has no such method"):
        as_forward("test_step")(Notes(), 1)


def test_public_functions_take_texts():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    batches = [(torch.zeros(8), torch.randn(8, 4))]
    calibrate(model, batches, forward="batch[1]", repair="batchnorm", max_batches=1)
    measure_signal(model, batches, forward="batch[1]", max_batches=1)
    Pruner(0.5, forward="batch[1]").apply(model, batches)
    with pytest.raises(ValueError, match="forward='batch\\['"):
        Pruner(0.5, forward="batch[")
