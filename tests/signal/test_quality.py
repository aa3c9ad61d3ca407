import copy

import pytest
from helpers import images
from zoo.convolutional import small_net

from reflow_lightning import calibrate, measure_signal, prune
from reflow_lightning.signal import LayerSignal, SignalReport, plot_quality, strong_but_wrong


def report(*rows):
    """Rows of ``(variance ratio, CKA)``."""
    return SignalReport(
        tuple(
            LayerSignal(f"net.layer{i}", 8, 0.0, 1.0, 1.0, dead=0.0, variance_ratio=ratio, cka=cka)
            for i, (ratio, cka) in enumerate(rows)
        ),
        batches=1,
    )


ROWS = ((1.0, 0.9), (1.0, 0.3), (0.1, 0.3), (5.0, 0.3), (1.9, 0.69), (float("nan"), float("nan")))


def test_strong_but_wrong_is_a_variance_near_the_dense_one_with_little_in_common():
    assert strong_but_wrong(report(*ROWS)) == ("net.layer1", "net.layer4")
    assert strong_but_wrong(report(*ROWS), strength=0.05, alignment=0.5) == ("net.layer1", "net.layer2", "net.layer3")


def test_without_a_reference_nothing_is_wrong_and_nothing_can_be_drawn():
    plain = measure_signal(small_net(), [images(8)], max_batches=1)
    assert strong_but_wrong(plain) == ()
    with pytest.raises(ValueError, match=r"reports\['repaired'\] was measured without the dense network"):
        plot_quality({"repaired": plain})


def test_reports_over_other_layers_and_no_reports_are_errors():
    with pytest.raises(ValueError, match=r"reports\['b'\] has other layers"):
        plot_quality({"a": report(*ROWS), "b": report(ROWS[0])})
    with pytest.raises(ValueError, match="reports is empty"):
        plot_quality({})


def test_the_last_reports_layers_are_marked_in_both_panels(tmp_path):
    figure = plot_quality({"pruned": report(*ROWS[::-1]), "repaired": report(*ROWS)}, "title")
    above, below = figure.axes
    assert above.get_yscale() == "log"
    for axes in (above, below):
        assert {text.get_text() for text in axes.texts} == {"dense", "pruned", "repaired"}
    assert "strong but wrong" in figure.legends[0].get_texts()[0].get_text()
    for axes, values in ((above, [1.0, 1.9]), (below, [0.3, 0.69])):
        assert list(axes.lines[-1].get_xdata()) == [2, 5]
        assert list(axes.lines[-1].get_ydata()) == values
        assert len(axes.patches) == 2
    assert [label.get_text() for label in below.get_xticklabels()] == [f"layer{i}" for i in range(len(ROWS))]
    figure.savefig(tmp_path / "figure.png")


def test_titles_labels_and_legend_do_not_overlap():
    figure = plot_quality({"pruned": report(*ROWS), "repaired": report(*ROWS)}, "title")
    figure.draw_without_rendering()
    above = figure.axes[0]
    boxes = [figure.legends[0].get_window_extent(), above._left_title.get_window_extent(), above.bbox]
    boxes += [text.get_window_extent() for text in above.texts]
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[i + 1 :])


def test_nothing_is_marked_where_nothing_is_wrong():
    figure = report((1.0, 0.9), (0.9, 0.8)).quality_figure()
    assert not figure.axes[0].patches
    assert not figure.legends
    assert {text.get_text() for text in figure.axes[0].texts} == {"dense", "this network"}


def test_a_repair_makes_the_signal_strong_and_leaves_it_partly_wrong():
    model, batches = small_net(), [images(64)]
    calibrate(model, batches, max_batches=1)
    dense = copy.deepcopy(model)
    prune(model, 0.9, criterion="random")
    calibrate(model, batches, max_batches=1)
    rows = measure_signal(model, batches, reference=dense, max_batches=1).rows
    assert all(row.cka < 0.999 for row in rows)
    assert figure_of(rows).axes[1].get_ylim() == (0, 1.05)


def figure_of(rows):
    return SignalReport(rows, batches=1).quality_figure()
