import pytest
import torch
from torch import nn

from reflow_lightning.running.batches import move
from reflow_lightning.running.inference import ordinary, outside_inference, writing
from reflow_lightning.running.snapshot import Snapshot


@outside_inference()
def modes():
    return torch.is_inference_mode_enabled(), torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("mode", "expected"), [(torch.inference_mode, False), (torch.no_grad, False), (torch.enable_grad, True)]
)
def test_inference_mode_is_left_and_gradients_stay_on_or_off(mode, expected):
    with mode():
        before = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
        assert modes() == (False, expected)
        assert (torch.is_inference_mode_enabled(), torch.is_grad_enabled()) == before


def test_inference_mode_is_back_after_an_error():
    with torch.inference_mode():
        with pytest.raises(ValueError, match="no"), outside_inference():
            raise ValueError("no")
        assert torch.is_inference_mode_enabled()


def test_what_was_made_in_inference_mode_can_be_written_and_put_back():
    with torch.inference_mode():
        norm = nn.BatchNorm1d(2)
    before = Snapshot([norm])
    with writing(norm):
        norm.running_mean.fill_(3)
        norm.weight.fill_(3)
    before.restore()
    assert norm.running_mean.tolist() == [0, 0]
    assert norm.weight.tolist() == [1, 1]


def test_an_ordinary_model_is_written_in_the_mode_that_there_is():
    with torch.no_grad(), writing(nn.Linear(2, 2)):
        assert not torch.is_inference_mode_enabled()


def test_a_copy_of_a_model_of_inference_mode_can_be_trained():
    with torch.inference_mode():
        norm = nn.BatchNorm1d(2)
    assert ordinary(ordinary(norm)) is not norm
    ordinary(norm)(torch.randn(4, 2)).sum().backward()


def test_a_batch_of_inference_mode_becomes_an_ordinary_one():
    with torch.inference_mode():
        batch = {"x": [torch.ones(1)]}
    assert not move(batch, torch.device("cpu"))["x"][0].is_inference()
    assert batch["x"][0].is_inference()
