"""One style for all figures."""

import itertools
from statistics import fmean, stdev

import matplotlib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflow_lightning.signal import SignalReport, plot_heatmap, plot_histograms, plot_profiles
from reflow_lightning.signal.figures import SERIES, STATES, _apart, draw_line, label_ends, new_figure, styled
from reflow_lightning.signal.heatmap import Column


@styled
def drawn(samples, **style):
    axes = new_figure(4, 3).add_subplot()
    places = sorted(samples)
    spreads = [stdev(samples[at]) if len(samples[at]) > 1 else 0.0 for at in places]
    draw_line(axes, places, [fmean(samples[at]) for at in places], spreads, "name", **(SERIES[0] | style))
    label_ends(axes)
    return axes.get_figure()


def test_the_users_own_settings_are_neither_used_nor_changed():
    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"font.size": 3}):
        assert drawn({0.5: [1.0]}).axes[0].texts[0].get_fontsize() == 12
        assert matplotlib.rcParams["font.size"] == 3
    assert dict(matplotlib.rcParams) == before


def test_a_line_goes_through_the_means_and_its_band_is_a_standard_deviation_wide():
    axes = drawn({0.9: [0.2, 0.4], 0.5: [0.8, 1.0]}).axes[0]
    assert axes.lines[0].get_xydata().tolist() == [[0.5, pytest.approx(0.9)], [0.9, pytest.approx(0.3)]]
    (band,) = axes.collections
    heights = {round(float(y), 3) for y in band.get_paths()[0].vertices[:, 1]}
    assert {0.159, 0.441, 0.759, 1.041} <= heights


def test_samples_at_one_place_get_a_bar_and_single_samples_nothing():
    assert len(drawn({0.5: [0.8, 1.0]}).axes[0].collections) == 1
    assert not drawn({0.5: [0.8], 0.9: [0.5]}).axes[0].collections


def test_lines_and_states_differ_in_more_than_their_colour():
    assert len({style["marker"] for style in SERIES}) == len({style["color"] for style in SERIES}) == len(SERIES)
    states = [style for name, style in STATES.items() if name != "before"]
    assert len({style["marker"] for style in states}) == len({style["color"] for style in states}) == len(states)


def test_a_line_is_named_at_its_last_value_that_is_not_missing():
    axes = drawn({0.5: [0.2], 0.7: [float("nan")]}).axes[0]
    assert [text.get_text() for text in axes.texts] == ["name"]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8).map(sorted))
def test_names_that_would_cover_each_other_are_shifted_apart_in_their_order(places):
    moved = _apart(places, 0.1)
    assert all(after - before >= 0.1 - 1e-5 for before, after in itertools.pairwise(moved))
    assert moved[0] >= -1e-5
    assert moved[-1] <= 1 + 1e-5
    if all(b - a >= 0.1 for a, b in itertools.pairwise(places)):
        assert moved == pytest.approx(places, abs=1e-5)


def test_nothing_to_draw_is_an_error_that_says_what_to_pass():
    empty = SignalReport((), batches=1)
    with pytest.raises(ValueError, match="profiles have no layer: pass reports by label"):
        plot_profiles({"dense": empty})
    with pytest.raises(ValueError, match="columns name no layer"):
        plot_heatmap([Column(0, {})])
    with pytest.raises(ValueError, match=r"layers=\['fc'\] must name .*'fc' has none; measure with metrics"):
        plot_histograms({"dense": empty}, ["fc"])
