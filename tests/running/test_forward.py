import pytest
import torch
from torch import nn

from reflow_lightning.running.forward import batch_input, default_forward


@pytest.mark.parametrize("key", ["x", "image", "input", "pixel_values"])
def test_the_input_of_a_dict_is_found_by_key(key):
    assert batch_input({"labels": 1, key: 2}) == 2


def test_the_input_of_other_batches():
    assert batch_input([1, 2]) == 1
    assert batch_input((1,)) == 1
    assert batch_input(1) == 1
    assert batch_input({"a": 1}) == {"a": 1}


@pytest.mark.parametrize(
    ("batch", "text"),
    [({"tokens": torch.ones(2)}, r"a dict from a batch of type dict with keys \['tokens'\]"), ((), "a tuple")],
)
def test_a_batch_that_it_does_not_understand_is_an_error_that_names_forward(batch, text):
    with pytest.raises(TypeError, match=rf"{text}.*pass forward=lambda model, batch"):
        default_forward(nn.Linear(2, 2), batch)


def test_an_error_of_the_model_itself_is_passed_on():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        default_forward(nn.Linear(2, 2), torch.ones(3, 3))


def test_a_module_without_forward_is_an_error_that_names_forward():
    with pytest.raises(TypeError, match="pass forward="):
        default_forward(nn.Module(), torch.ones(3))
