"""How many batches "auto" reads, and the standard error that it goes by, against plain NumPy."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import reflow_lightning.calibration.enough as enough_module
from reflow_lightning import Reflow, calibrate
from reflow_lightning.calibration.enough import LEAST_BATCHES, TOLERANCE, Precision, drawn, read, standard_error
from reflow_lightning.running.batches import MOST_BATCHES, Batches
from reflow_lightning.signal.statistics import merge_moments, moments

CPU = torch.device("cpu")


def standard_error_in_numpy(batches: list[torch.Tensor]) -> np.ndarray:
    """Of batches (N, C), from the list of their means and variances."""
    means = np.stack([batch.double().numpy().mean(0) for batch in batches])
    variances = np.stack([batch.double().numpy().var(0) for batch in batches])
    total = variances.mean(0) + means.var(0)
    of_mean = means.std(0, ddof=1) / np.sqrt(len(batches))
    of_variance = variances.std(0, ddof=1) / np.sqrt(len(batches))
    return np.sqrt(of_mean**2 / total + (of_variance / total / 2) ** 2)


def spread(count: int, size: int = 200, between: float = 0.0, channels: int = 4) -> list[torch.Tensor]:
    """Batches whose values have variance one, and whose means differ with the given standard deviation."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(size, channels, generator=generator) + between * torch.randn(channels, generator=generator)
        for _ in range(count)
    ]


def read_all(source, limit="auto") -> Batches:
    batches = Batches(source, limit, CPU, task="calibration")
    read(batches, lambda batch: {"layer": moments(batch)})
    return batches


@given(st.lists(st.integers(2, 9), min_size=2, max_size=6), st.sampled_from([0.0, 1.0, -1e3]), st.integers(0, 99))
@settings(deadline=None, max_examples=50)
def test_the_standard_error_is_that_of_numpy_whatever_the_order_of_merging(sizes, offset, seed):
    generator = torch.Generator().manual_seed(seed)
    batches = [torch.randn(size, 3, generator=generator, dtype=torch.float64) * 2 + offset for size in sizes]
    expected = standard_error_in_numpy(batches)
    draws = torch.stack([drawn(moments(batch)) for batch in batches])
    np.testing.assert_allclose(standard_error(merge_moments(draws)), expected, rtol=1e-6)
    precision = Precision()
    for draw in draws.flip(0):
        precision.update({"layer": draw})
    assert precision.error() == pytest.approx(np.sqrt((expected**2).mean()), rel=1e-6)
    assert precision.batches == len(sizes)


def test_the_standard_error_is_how_far_normalised_activations_are_off():
    """Over many samples of ten batches, each against statistics of all values."""
    values = torch.cat(spread(2000, size=50, between=0.3)).double()
    mean, deviation = values.mean(0), values.std(0, correction=0)
    off, claimed = [], []
    for sample in values.split(500):
        wrongly = (values[:2000] - sample.mean(0)) / sample.std(0, correction=0)
        off.append((wrongly - (values[:2000] - mean) / deviation).square().mean())
        draws = torch.stack([drawn(moments(batch)) for batch in sample.split(50)])
        claimed.append(standard_error(merge_moments(draws)).square().mean())
    assert float(torch.stack(claimed).mean()) == pytest.approx(float(torch.stack(off).mean()), rel=0.15)


def test_constant_channels_are_known_and_one_batch_tells_nothing():
    constant = drawn(moments(torch.full((8, 2), 3.0)))
    assert standard_error(merge_moments(torch.stack([constant, constant]))).tolist() == [0.0, 0.0]
    assert standard_error(constant).tolist() == [torch.inf, torch.inf]
    assert not Precision().enough()


def test_reading_stops_earlier_where_batches_resemble_each_other():
    counts = [read_all(spread(200, between=between)).count for between in (0.0, 0.05, 0.1)]
    assert LEAST_BATCHES < counts[0] < counts[1] < counts[2] < MOST_BATCHES
    assert read_all(spread(200, size=5000)).count == LEAST_BATCHES
    assert read_all(spread(200, size=50)).count > counts[0]


def test_reading_stops_at_the_first_batch_that_is_enough():
    source = spread(200)
    count = read_all(source).count
    error = [np.sqrt((standard_error_in_numpy(source[:k]) ** 2).mean()) for k in (count - 1, count)]
    assert error[0] > TOLERANCE >= error[1]


def test_no_batch_more_is_asked_for():
    asked = []
    batches = read_all(asked.append(i) or batch for i, batch in enumerate(spread(200)))
    assert len(asked) == batches.count


def test_enough_is_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_all(spread(200)).check()


def test_where_the_batches_never_suffice_a_warning_names_the_layer_and_its_error():
    batches = read_all(spread(300, between=1.0))
    assert batches.count == MOST_BATCHES
    with pytest.warns(
        UserWarning, match=r"calibration got 200 batches, too few .* 0\.0\d+ .* largest, 0\.0\d+, is layer"
    ):
        batches.check()


def test_too_little_data_is_a_warning_that_speaks_of_precision_not_of_a_number_of_batches():
    batches = read_all(spread(3))
    with pytest.warns(UserWarning, match=r"got 3 batches, too few for precise statistics.*Give more data") as caught:
        batches.check()
    assert len(caught) == 1


def test_values_that_no_batch_can_mend_end_the_reading():
    broken = [batch / 0 for batch in spread(50)]
    assert read_all(broken).count == LEAST_BATCHES


@pytest.mark.parametrize("limit", [3, 40])
def test_a_number_is_read_to_its_end_as_before(limit):
    assert read_all(spread(50), limit).count == limit


def test_a_number_is_read_without_asking_other_processes(monkeypatch):
    monkeypatch.setattr(enough_module, "gather", None)
    assert read_all(spread(5), 5).count == 5
    with pytest.raises(TypeError):
        read_all(spread(5))


def test_any_other_iterable_is_read_to_its_end():
    taken = []
    read(iter(range(7)), lambda batch: taken.append(batch) or {})
    assert taken == list(range(7))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4), nn.BatchNorm1d(4))


def test_calibrate_gives_the_statistics_of_the_batches_that_it_took():
    source = spread(200, size=500)
    found, expected = network(), network()
    result = calibrate(found, source, max_batches="auto")
    assert LEAST_BATCHES <= result.batches < 50
    calibrate(expected, source[: result.batches], max_batches=result.batches)
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value)


def test_all_calls_of_a_layer_are_one_draw_of_its_batch():
    class Parts(nn.Module):
        def __init__(self, calls):
            super().__init__()
            self.bn, self.calls = nn.BatchNorm1d(4), calls

        def forward(self, batch):
            for part in batch.chunk(self.calls):
                self.bn(part)

    counts = [calibrate(Parts(calls), spread(200), max_batches="auto").batches for calls in (1, 2, 4)]
    assert len(set(counts)) == 1


def test_batches_that_are_passed_over_do_not_count():
    source = [part for batch in spread(200, size=500) for part in (batch[:1], batch)]
    result = calibrate(network(), source, max_batches="auto")
    assert result.batches == calibrate(network(), source[1::2], max_batches="auto").batches


def test_reflow_takes_auto_too():
    event = Reflow(0.5, calibration_batches="auto").apply(network(), spread(200, size=500))
    assert LEAST_BATCHES <= event.calibration.batches < 50
    with pytest.raises(ValueError, match="calibration_batches='many' must be a whole number of at least 1, or 'auto'"):
        Reflow(0.5, calibration_batches="many")
