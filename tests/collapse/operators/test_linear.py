import pytest
import torch
from scenarios.wrecked import same
from torch import nn

from reflow_lightning.collapse import collapse


def test_the_transposed_linear_layers_of_gpt2_are_narrowed_and_merged():
    conv1d = pytest.importorskip("transformers.pytorch_utils").Conv1D
    torch.manual_seed(0)
    model = nn.Sequential(conv1d(8, 4), nn.GELU(), conv1d(6, 8), conv1d(2, 6))
    with torch.no_grad():
        model[0].weight[:, :5], model[0].bias[:] = 0, torch.randn(8)
    collapsed = collapse(model, torch.randn(3, 5, 4))
    assert same(model, collapsed, (torch.randn(2, 7, 4),)) < 1e-5
    assert collapsed.get_submodule("0").weight.shape == (4, 3)
    assert (collapsed.get_submodule("0").nx, collapsed.get_submodule("0").nf) == (4, 3)
    assert sum(p.numel() for p in collapsed.parameters()) == 4 * 3 + 3 + 3 * 2 + 2
