import copy
import io
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional

from reflow_lightning.cost.memory import measure_memory

FLOAT = 4
BATCH = 8


def peak(model, *shape):
    return measure_memory(model, torch.randn(BATCH, *shape)).peak_bytes


def linear(*widths):
    return nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in pairwise(widths)))


@pytest.mark.parametrize("widths", [(10, 20), (10, 20, 30, 5), (100, 7, 50, 3, 80)])
def test_the_peak_of_a_chain_is_its_largest_pair_of_neighbours(widths):
    """A layer's input is freed when the layer is done; the network's own input was there before."""
    made = [0, *widths[1:-1]]
    pairs = max(a + b for a, b in zip(made, widths[1:], strict=True))
    assert peak(linear(*widths), widths[0]) == FLOAT * BATCH * pairs


class Holding(nn.Module):
    """Keeps its first activation to the end, as a residual connection does."""

    def forward(self, x):
        first = x + 1
        out = first * 2
        out = out * 2
        return first + out


def test_what_is_kept_for_later_counts_until_then():
    assert peak(Holding(), 10) == 3 * FLOAT * BATCH * 10


class InPlaceAndViews(nn.Module):
    def forward(self, x):
        return functional.relu((x + 1).view(BATCH, -1).transpose(0, 1), inplace=True)


def test_views_and_changes_in_place_take_nothing():
    assert peak(InPlaceAndViews(), 10) == FLOAT * BATCH * 10


def test_a_network_of_several_inputs_takes_them_as_a_tuple():
    class Sum(nn.Module):
        def forward(self, x, y, scale):
            return (x + y) * scale

    x, y = torch.randn(BATCH, 10), torch.randn(BATCH, 1)
    assert measure_memory(Sum(), (x, y, 2)).peak_bytes == 2 * FLOAT * BATCH * 10


def test_a_network_that_returns_its_input_takes_nothing():
    assert peak(nn.Identity(), 10) == 0


def test_the_projections_of_attention_are_seen_although_a_fused_kernel_could_hide_them():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    assert peak(layer, 6, 16) >= FLOAT * BATCH * 6 * 3 * 16


def test_the_peak_grows_with_the_batch_and_the_rest_does_not():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    one, two = (measure_memory(model, torch.randn(n, 1, 6, 6)) for n in (BATCH, 2 * BATCH))
    assert one.peak_bytes < two.peak_bytes <= 2 * one.peak_bytes
    assert (one.parameter_bytes, one.file_bytes) == (two.parameter_bytes, two.file_bytes)


def test_parameters_and_buffers_count_once_however_many_names_they_have():
    layer = nn.Linear(10, 10, bias=False)
    assert measure_memory(nn.Sequential(layer, layer), torch.zeros(1, 10)).parameter_bytes == FLOAT * 100
    assert measure_memory(nn.BatchNorm1d(10), torch.zeros(2, 10)).parameter_bytes == FLOAT * 4 * 10 + 8


def test_the_file_is_what_torch_saves():
    model, buffer = nn.Linear(30, 20), io.BytesIO()
    torch.save(model.state_dict(), buffer)
    memory = measure_memory(model, torch.zeros(1, 30))
    assert memory.file_bytes == len(buffer.getvalue()) > memory.parameter_bytes
    assert memory.to_dict() == {"peak_bytes": 80, "parameter_bytes": FLOAT * 620, "file_bytes": memory.file_bytes}


def test_the_model_and_the_process_are_as_before():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout())
    model[1].eval()
    state, flags = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    random, fused = torch.get_rng_state(), torch.backends.mha.get_fastpath_enabled()
    measure_memory(model, torch.ones(3, 4))
    with pytest.raises(RuntimeError):
        measure_memory(model, torch.ones(3, 5))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.backends.mha.get_fastpath_enabled() == fused
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.gpu
def test_on_a_gpu_it_is_what_the_allocator_says():
    sizes = 1024 * BATCH, 512 * BATCH
    model = linear(1024, 1024, 512).cuda()
    assert FLOAT * sum(sizes) <= peak(model, 1024) <= 4 * FLOAT * sum(sizes)
