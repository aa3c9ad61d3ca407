"""The signal of all layers over a training."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflow_lightning.signal import LayerSignal, SignalReport, VarianceHistory, plot_heatmap


def signal(**variances):
    rows = tuple(LayerSignal(name, 8, 0.0, value, value, 0.0) for name, value in variances.items())
    return SignalReport(rows, batches=1)


@given(st.integers(1, 200), st.integers(2, 9))
def test_memory_is_bounded_and_what_is_kept_is_spread_evenly(moments, most):
    history = VarianceHistory(most)
    for step in range(moments):
        history.add(step, {"conv1": 1.0})
    steps = [column.step for column in history.columns]
    assert len(steps) <= most
    assert len({b - a for a, b in itertools.pairwise(steps)}) <= 1
    assert steps[0] == 0
    assert moments - steps[-1] <= max(1, 2 * (steps[1] if len(steps) > 1 else moments))


def test_of_very_many_events_some_are_kept_and_the_last_among_them():
    history = VarianceHistory()
    for step in range(300):
        history.add_event(step, {"pruned": signal(conv1=0.1), "repaired": signal(conv1=0.9)})
    steps = [column.step for column in history.columns]
    assert len(steps) <= 64
    assert steps[-2:] == [299, 299]


def test_events_are_kept_whatever_is_forgotten():
    history = VarianceHistory(most=2)
    history.add(0, {"conv1": 1.0})
    history.add_event(0, {"dense": signal(conv1=1.0), "pruned": signal(conv1=0.1), "repaired": signal(conv1=0.9)})
    for step in range(1, 20):
        history.add(step, {"conv1": 1.0})
    states = [(column.state, column.variances["conv1"]) for column in history.columns if column.state]
    assert states == [("pruned", 0.1), ("repaired", 0.9)]


def test_an_event_has_the_layers_that_the_training_has():
    history = VarianceHistory()
    history.add(0, {"conv1": 1.0})
    history.add_event(0, {"pruned": signal(conv1=0.1, fc=3.0)})
    assert history.columns[1].variances == {"conv1": 0.1}


def test_a_history_goes_on_after_a_checkpoint():
    whole, first, second = (VarianceHistory(most=4) for _ in range(3))
    for step in range(7):
        for history in (whole, first):
            history.add(step, {"conv1": float(step), "fc": 1.0} if step else {"conv1": 0.5})
    second.load_state_dict(first.state_dict())
    for history in (whole, second):
        history.add_event(7, {"pruned": signal(conv1=0.25)})
        history.add(8, {"conv1": 2.0, "fc": 4.0})
    assert second.columns == whole.columns


def test_colours_are_logarithmic_layers_go_down_and_states_are_named(tmp_path):
    history = VarianceHistory()
    for step in (0, 50):
        history.add(step, {"net.conv1": 1.0, "net.fc": 0.1})
    history.add_event(50, {"pruned": signal(**{"net.conv1": 1.0, "net.fc": 0.0})})
    figure = plot_heatmap(history.columns, "title")
    axes = figure.axes[0]
    (mesh,) = axes.collections
    assert mesh.get_array().tolist() == [[1.0, 1.0, 1.0], [0.1, 0.1, 1e-9]]
    assert type(mesh.norm).__name__ == "LogNorm"
    assert [text.get_text() for text in axes.get_yticklabels()] == ["conv1", "fc"]
    assert axes.get_ylim() == (2, 0)
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "50"]
    figure.savefig(tmp_path / "figure.png")
    [above] = axes.child_axes
    assert [text.get_text() for text in above.get_xticklabels()] == ["pruned"]


@pytest.mark.parametrize("value", [0.0, float("inf"), float("nan"), 1.0])
def test_odd_values_are_drawn(tmp_path, value):
    history = VarianceHistory()
    history.add(0, {"conv1": value})
    plot_heatmap(history.columns).savefig(tmp_path / "figure.png")


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="columns is empty: pass at least one"):
        plot_heatmap([])
