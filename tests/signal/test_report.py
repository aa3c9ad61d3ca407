import json

from helpers import images
from zoo.convolutional import small_net

from reflow_lightning import measure_signal
from reflow_lightning.signal import plot_profiles


def report(reference=None):
    return measure_signal(small_net(), [images(16)], reference=reference, max_batches=1)


def test_the_table_has_a_line_a_layer_and_no_empty_columns():
    lines = report().table().splitlines()
    assert [line.split()[0] for line in lines] == ["layer", "1", "5", "9"]
    assert "cosine" not in lines[0]
    assert len({len(line) for line in lines}) == 1
    assert "cosine" in report(small_net()).table().splitlines()[0]
    assert str(report()).startswith("layer")


def test_the_dict_is_plain():
    content = json.loads(json.dumps(report().to_dict()))
    assert content["batches"] == 1
    assert [row["name"] for row in content["layers"]] == ["1", "5", "9"]


def test_the_figure_shows_variance_against_depth_on_a_log_scale(tmp_path):
    signal = report()
    figure = signal.figure("title")
    axes = figure.axes[0]
    assert axes.get_title(loc="left") == "title"
    assert axes.get_yscale() == "log"
    assert list(axes.lines[0].get_ydata()) == [row.variance for row in signal.rows]
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000


def test_profiles_share_their_axes():
    axes = plot_profiles({"dense": report(), "pruned": report()}).axes[0]
    assert {text.get_text(): text.get_color() for text in axes.texts} == {
        line.get_label(): line.get_color() for line in axes.lines
    }
    assert [line.get_label() for line in axes.lines] == ["dense", "pruned"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "5", "9"]


def test_a_figure_of_one_network_says_what_it_is_by_itself():
    axes = report().figure().axes[0]
    assert axes.get_title(loc="left") == "signal by layer, over 1 batch"
    assert [text.get_text() for text in axes.texts] == ["this network"]
    assert [text.get_text() for text in report().figure(label="pruned").axes[0].texts] == ["pruned"]
