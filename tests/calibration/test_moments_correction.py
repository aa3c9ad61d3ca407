import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reflow_lightning.calibration import Target
from reflow_lightning.calibration.matching import LARGEST_GAIN, correction, on_the_way
from reflow_lightning.signal.statistics import ChannelMoments


def channels(mean, variance, count=10.0):
    mean, variance = (torch.tensor(values, dtype=torch.float64) for values in (mean, variance))
    return ChannelMoments(torch.full_like(mean, count), mean, variance)


@settings(deadline=None)
@given(st.floats(-5, 5), st.floats(0.2, 5), st.floats(-5, 5), st.floats(0.2, 5))
def test_the_correction_gives_the_target(mean, std, wanted_mean, wanted_std):
    target = Target(*torch.tensor([[wanted_mean], [wanted_std]], dtype=torch.float64))
    gain, shift = correction(channels([mean], [std**2]), target, can_shift=True)
    assert float(gain) * std == pytest.approx(min(max(wanted_std, std / 10), std * 10))
    assert float(gain) * mean + float(shift) == pytest.approx(wanted_mean)
    gain, shift = correction(channels([mean], [std**2]), target, can_shift=False)
    assert float(shift) == 0
    size, wanted = (mean**2 + std**2) ** 0.5, (wanted_mean**2 + wanted_std**2) ** 0.5
    assert float(gain) * size == pytest.approx(min(max(wanted, size / 10), size * 10))


def test_a_constant_channel_keeps_its_gain_and_gets_the_mean():
    target = Target(torch.ones(3).double(), torch.full((3,), 4.0).double())
    gain, shift = correction(channels([2.0, 0.0, 1e6], [0.0, 0.0, 1e-3]), target, can_shift=True)
    assert gain.tolist() == [1.0, 1.0, 1.0]
    assert shift.tolist() == [-1.0, 1.0, 1.0 - 1e6]


def test_no_channel_is_scaled_by_more_than_the_largest_gain_or_less_than_its_inverse():
    target = Target(torch.zeros(3).double(), torch.tensor([1.0, 1.0, 0.0]).double())
    gain, _ = correction(channels([0.0, 0.0, 0.0], [1e-8, 1e8, 1.0]), target, can_shift=True)
    assert gain.tolist() == [LARGEST_GAIN, 1 / LARGEST_GAIN, 1 / LARGEST_GAIN]


def test_a_channel_that_saw_nothing_is_not_corrected():
    target = Target(torch.ones(1).double(), torch.ones(1).double())
    gain, shift = correction(channels([0.0], [0.0], count=0.0), target, can_shift=True)
    assert (gain.item(), shift.item()) == (1.0, 0.0)


def test_on_the_way():
    target = on_the_way(channels([1.0], [4.0]), Target(torch.tensor([3.0]), torch.tensor([4.0])))
    assert (target.mean.item(), target.std.item()) == (1.5, 2.5)
