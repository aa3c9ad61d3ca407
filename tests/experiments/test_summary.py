import atexit
import csv
import json
import re

import pytest
from omegaconf import OmegaConf

from reflow_lightning.experiments.grouping import over_seeds
from reflow_lightning.experiments.summary import SweepSummary, collect, jobs_in, plot, report, summarise, with_defaults


def job(folder, number, overrides, **report):
    (folder / str(number) / ".hydra").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(overrides), folder / str(number) / ".hydra" / "overrides.yaml")
    if report:
        content = {"metric": "accuracy", "seconds": {"total": 1.5}} | report
        (folder / str(number) / "report.json").write_text(json.dumps(content))


def config_of(folder):
    return OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}}})


@pytest.fixture
def sweep(tmp_path):
    for number, sparsity in enumerate((0.5, 0.9)):
        job(tmp_path, number, [f"sparsity={sparsity}"], sparsity=sparsity, dense=0.9, pruned=0.2, repaired=0.8)
    job(tmp_path, 10, ["sparsity=2"])
    return tmp_path


def test_a_job_without_a_report_failed(sweep):
    rows = collect(sweep)
    assert [(row["job"], row["status"]) for row in rows] == [("0", "done"), ("1", "done"), ("10", "failed")]
    assert rows[2]["sparsity"] == "2"
    (sweep / "10" / "error.txt").write_text("ValueError: sparsity=2 is outside\n")
    assert collect(sweep)[2]["error"] == "ValueError: sparsity=2 is outside"


def test_a_job_that_left_nothing_was_killed(sweep):
    assert collect(sweep)[2]["error"] == "no report: it was killed, or still runs"


def test_jobs_of_an_earlier_sweep_in_the_folder_do_not_count(sweep):
    SweepSummary().on_multirun_start(config_of(sweep))
    atexit.unregister(summarise)
    assert collect(sweep) == []
    assert (sweep / "0" / "report.json").exists()


@pytest.mark.parametrize(("rounds", "is_baseline"), [([], False), ([{"number": 0}, {"number": 1}], True)])
def test_dense_is_a_baseline_where_it_was_trained_for_a_whole_round(rounds, is_baseline, tmp_path):
    stages = {"dense": {"step": 0}, "pruned": {"step": 40}}
    job(tmp_path, 0, [], sparsity=0.5, dense=0.9, pruned=0.2, repaired=0.8, stages=stages, rounds=rounds)
    assert ("dense" in collect(tmp_path)[0]) == is_baseline


def test_the_plot_has_a_line_a_state():
    rows = [
        {"job": str(i), "status": "done", "metric": "accuracy", "sparsity": s, "dense": 0.9, "repaired": r}
        for i, (s, r) in enumerate([(0.9, 0.7), (0.5, 0.8)])
    ]
    lines = {line.get_label(): line for line in plot(rows).axes[0].lines}
    assert set(lines) == {"dense", "repaired"}
    assert list(lines["repaired"].get_xdata()) == [0.5, 0.9]
    assert list(lines["repaired"].get_ydata()) == [0.8, 0.7]


def done(*jobs):
    return [
        {"job": str(i), "status": "done", "metric": "accuracy", "repaired": 0.8} | job for i, job in enumerate(jobs)
    ]


def test_other_overrides_make_panels_of_their_own():
    rows = done(*({"sparsity": s, "criterion": c} for c in ("magnitude", "random", "mine") for s in (0.5, 0.9)))
    figure = plot(rows)
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in panels] == [
        "criterion=magnitude",
        "criterion=random",
        "criterion=mine",
    ]
    assert [len(axes.lines) for axes in panels] == [1, 1, 1]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["repaired"]


REPAIRS = [{"sparsity": s, "repair": r, "pruned": 1 - s, "dense": 0.9} for r in ("auto", "best") for s in (0.5, 0.9)]


def test_repairs_of_the_same_networks_share_a_panel():
    [axes] = plot(done(*REPAIRS)).axes
    assert [line.get_label() for line in axes.lines] == ["dense", "pruned", "repair=auto", "repair=best"]
    assert len({line.get_color() for line in axes.lines}) == 4
    assert list(axes.get_xticks()) == [0.5, 0.9]


@pytest.mark.parametrize("other", [{"pruned": 0.3}, {"final": 0.8}, {"repair": "x" * 40}], ids=str)
def test_those_of_other_networks_or_trained_on_do_not(other):
    figure = plot(done(*REPAIRS[:2], *(row | other for row in REPAIRS[2:])))
    assert len([axes for axes in figure.axes if axes.get_visible()]) == 2


def test_jobs_that_differ_in_more_than_sparsity_have_a_row_each():
    rows = done({"sparsity": 0.5, "optimizer.lr": "0.0646642271741456"}, {"sparsity": 0.9, "optimizer.lr": "0.1"})
    [axes] = plot(rows).axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["0: sparsity=0.5, optimizer.lr=0.0647", "1: sparsity=0.9, optimizer.lr=0.1"]


def test_a_sweep_without_any_result_has_an_empty_picture():
    assert not plot([]).axes[0].lines


def test_the_summary_is_written_though_a_job_failed(sweep, capsys):
    with pytest.raises(SystemExit):
        SweepSummary().on_multirun_end(config_of(sweep))
    with (sweep / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["repaired"] for row in rows] == ["0.8", "0.8", ""]
    assert (sweep / "summary.png").stat().st_size > 5000
    text = capsys.readouterr().out
    assert "3 jobs, 1 failed: 10" in text
    assert "10 (sparsity=2): no report" in text


@pytest.fixture
def seeds(tmp_path):
    for number, (sparsity, seed) in enumerate([(0.5, 0), (0.5, 1), (0.9, 0), (0.9, 1)]):
        repaired = 0.8 + seed / 10 - sparsity / 10
        overrides = [f"sparsity={sparsity}", f"seed={seed}"]
        job(tmp_path, number, overrides, sparsity=sparsity, dense=0.9, pruned=0.2, repaired=repaired)
    return tmp_path


def test_seeds_are_one_line_with_mean_and_deviation(seeds):
    rows = over_seeds(collect(seeds))
    assert [(row["sparsity"], row["seeds"], row["job"]) for row in rows] == [(0.5, 2, "0, 1"), (0.9, 2, "2, 3")]
    assert [row["repaired"] for row in rows] == pytest.approx([0.8, 0.76])
    assert [row["repaired_std"] for row in rows] == pytest.approx([0.0707, 0.0707], abs=1e-4)
    (axes,) = plot(collect(seeds)).axes
    assert len(axes.collections) == 1  # one band, of the state that differs
    assert {text.get_text() for text in axes.texts} == {"dense", "pruned", "repaired"}


def configured(folder, number, overrides, config, choices=None, **report):
    job(folder, number, overrides, sparsity=0.5, dense=0.9, pruned=0.2, **report)
    OmegaConf.save(OmegaConf.create(config), folder / str(number) / ".hydra" / "config.yaml")
    of_hydra = {"hydra": {"runtime": {"choices": choices or {}}}}
    OmegaConf.save(OmegaConf.create(of_hydra), folder / str(number) / ".hydra" / "hydra.yaml")


def test_a_job_that_took_a_default_is_listed_with_it(tmp_path):
    """As are others that were told the same, whatever they wrote: both are one, with two seeds."""
    told = ["repair=auto", "model=vit", "exclude=[fc, conv1]", "seed=1", "++lr=1e-3", "pattern=null", "~logger"]
    common = {"repair": "auto", "model": {"depth": 4}, "exclude": ["fc", "conv1"], "lr": 0.001, "pattern": None}
    common |= {"title": "${nothing}"}
    configured(tmp_path, 0, told, common | {"seed": 1}, {"model": "vit"}, repaired=0.8)
    configured(tmp_path, 1, ["title=${nothing}"], common | {"seed": 0}, {"model": "vit"}, repaired=0.7)
    first, second = with_defaults(collect(tmp_path), jobs_in(tmp_path))
    given = {"repair": "auto", "seed": "0", "model": "vit", "exclude": "[fc, conv1]", "lr": "0.001", "pattern": "null"}
    assert {key: second[key] for key in given} == given
    assert second["title"] == "${nothing}"
    assert first.keys() - second.keys() == {"~logger"}
    del first["~logger"]
    assert [row["seeds"] for row in over_seeds([first, second])] == [2]


def test_jobs_that_override_the_same_keys_are_listed_as_they_were_told(tmp_path):
    for number, lr in enumerate(("1e-3", "0.01")):
        configured(tmp_path, number, [f"lr={lr}"], {"lr": float(lr)}, repaired=0.8)
    assert [row["lr"] for row in with_defaults(collect(tmp_path), jobs_in(tmp_path))] == ["1e-3", "0.01"]


def test_a_seed_that_was_run_twice_counts_once(seeds):
    rows = collect(seeds)
    again = [dict(row, job=f"again/{row['job']}", repaired=0.5) for row in rows if row["seed"] == "0"]
    for row in over_seeds([*rows, *again]):
        assert row["seeds"] == 2
        assert "again" in row["job"]  # the last counts


def test_the_page_needs_no_other_file_and_holds_means_jobs_and_the_last_lines_of_a_failure(seeds):
    job(seeds, 4, ["sparsity=2", "seed=0"])
    (seeds / "4" / "error.txt").write_text("ValueError: <2> is outside\n\nTraceback\n  the very line\n")
    assert summarise(seeds) == ["4"]
    page = (seeds / "summary.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|\d)', page)
    assert '0.8000 <span class="spread">± 0.0707</span>' in page
    assert '<a href="3">3</a>' in page
    assert "ValueError: &lt;2&gt; is outside" in page
    assert "the very line" in page


def test_the_page_says_that_jobs_were_tested_on_a_part_of_the_data(seeds):
    assert "batches alone" not in page_of(seeds)
    for number in (20, 21):
        tested = {"batches": 1, "of": 12}
        job(seeds, number, [f"seed={number}"], sparsity=0.5, dense=0.9, pruned=0.2, repaired=0.8, tested=tested)
    assert "2 tested on 1 of 12 batches alone" in page_of(seeds)


def page_of(folder):
    summarise(folder)
    return (folder / "summary.html").read_text()


def test_a_report_of_several_folders_is_made_where_one_is(seeds, tmp_path_factory, monkeypatch, capsys):
    here, other = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("other")
    job(other, "single", ["sparsity=0.7", "seed=0"], sparsity=0.7, dense=0.9, pruned=0.2, repaired=0.77)
    monkeypatch.chdir(here)
    assert report([str(seeds), str(other)]) == 0
    with (here / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["job"].split("/")[1] for row in rows] == ["0", "1", "2", "3", "single"]
    assert str(here) in capsys.readouterr().out
    assert report([str(here)]) == 2
    assert "no run of reflow-lightning is in there" in capsys.readouterr().err
    assert report(["nowhere"]) == 2
    assert "there is no folder nowhere" in capsys.readouterr().err
