import pytest
import torch
from torch import nn

from reflow_lightning.collapse.graph.running import StepFailedError, attempted


def test_what_a_step_raises_is_told_from_an_error_of_our_own():
    with pytest.raises(StepFailedError, match=r"RuntimeError: .*mat1 and mat2 shapes cannot be multiplied") as caught:
        attempted(nn.Linear(2, 2), torch.ones(1, 3))
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert attempted(torch.add, torch.ones(1), other=1).item() == 2
