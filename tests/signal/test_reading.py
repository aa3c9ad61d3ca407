import pytest
import torch

from reflow_lightning.running.compat.torch import TorchDispatchMode
from reflow_lightning.signal.reading import read
from reflow_lightning.signal.statistics import moments

SHAPES = [(32, 8, 144), (64, 16, 64), (256, 64, 4), (2048, 24, 1)]


class Largest(TorchDispatchMode):
    """The number of values in the largest float64 tensor, and the passes over a whole activation."""

    def __init__(self, size):
        super().__init__()
        self.size, self.exact, self.passes = size, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [x for x in args if isinstance(x, torch.Tensor)]
        if isinstance(out, torch.Tensor) and out.dtype == torch.float64:
            self.exact = max(self.exact, out.numel())
        views = ("view", "split", "reshape", "transpose", "expand", "unsqueeze", "detach")
        self.passes += any(x.numel() >= self.size for x in tensors) and not any(v in str(func) for v in views)
        return out


@pytest.mark.parametrize("shape", SHAPES)
def test_the_variance_takes_at_most_three_passes_and_no_float64_of_the_activations_size(shape):
    values = torch.randn(shape)
    with Largest(values.numel()) as seen:
        read(values, signs=False, pooled=False)
    assert seen.passes <= 3
    assert seen.exact < values.numel()


@pytest.mark.parametrize("offset", [0.0, 3.0, 1e2, 1e5])
@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1.0, 1e25])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("last", [False, True])
def test_many_values_are_read_as_precisely_as_in_float64(shape, scale, offset, last):
    generator = torch.Generator().manual_seed(0)
    values = (torch.randn(shape, generator=generator) + offset) * scale
    values[:, 0], values[:, 1] = 0.0, offset * scale  # channels without a signal
    if last:
        values = values.transpose(1, 2).contiguous().transpose(1, 2)
    found, expected = read(values).moments, moments(values)
    torch.testing.assert_close(found[2], expected[2], rtol=5e-6, atol=0)
    deviation = (expected[2] / expected[0]).sqrt()
    assert bool(((found[1] - expected[1]).abs() <= 1e-5 * deviation + 1e-7 * expected[1].abs()).all())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_seen_in_its_channel_alone(value):
    values = torch.randn(64, 16, 64)
    values[3, 5, 7] = value
    found = read(values)
    assert [c for c in range(16) if not found.moments[2, c].isfinite()] == [5]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_types_are_summed_in_float32(dtype):
    values = torch.randn(64, 16, 64).to(dtype)
    torch.testing.assert_close(read(values).moments, moments(values), rtol=2e-6, atol=1e-5)
