import pytest
import torch

from reflow_lightning.experiments.models.signal_cnn import SignalCNN
from reflow_lightning.pruning import select


@pytest.mark.parametrize("steps", [16, 128])
def test_signals_of_any_length(steps):
    assert SignalCNN(9, 6)(torch.zeros(4, steps, 9)).shape == (4, 6)


def test_time_is_the_axis_of_the_convolutions():
    model = SignalCNN(2, 3, width=4).eval()
    signal = torch.zeros(1, 64, 2)
    signal[0, 20:23] = torch.randn(3, 2)
    later = signal.roll(8, dims=1)  # by a multiple of the strides, far from the ends
    torch.testing.assert_close(model(later), model(signal))
    assert not torch.allclose(model(signal.flip(2)), model(signal))


def test_prunable_weights():
    assert [tuple(p.shape) for p in select(SignalCNN(9, 2, width=8)).values()] == [
        (8, 9, 5),
        (16, 8, 5),
        (16, 16, 5),
        (2, 16),
    ]
