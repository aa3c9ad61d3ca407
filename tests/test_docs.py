"""What the README and the pages of docs/ say can be run, runs; what they link to exists; the site has every page."""

import re
import sys
from importlib import import_module

import pytest
import torch
from pages import DOCS, PAGES, ROOT, anchors, commands, examples, links, named
from scenarios.commands import program

ROOMS = ("pruning", "calibration", "signal", "schedules", "rounds", "search", "layers", "collapse", "cost", "callbacks")


def test_there_are_examples_and_commands():
    assert len(examples()) >= 25
    assert len(commands()) >= 15


@pytest.mark.parametrize("block", [pytest.param(block, id=name) for name, block in examples()])
def test_an_example_runs(block, tmp_path):
    if "transformers" in block:
        pytest.importorskip("transformers")
    if "cuda()" in block and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    done = program(block, tmp_path)
    assert done.status == 0, done.text


@pytest.mark.parametrize("line", sorted({line for _, line in commands()}))
def test_a_command_has_keys_that_exist(line):
    from reflow_lightning.experiments.overrides import complaints

    if "launcher=joblib" in line:
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    _, *arguments = line.partition("  #")[0].split()
    if arguments[:1] in (["--help"], ["report"]):
        return
    search = arguments[:1] == ["search"]
    assert complaints(arguments[search:], "search" if search else "config") == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_link_leads_to_a_file_and_a_title(page):
    wrong = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    assert wrong == []


def test_the_site_has_every_page_in_its_navigation():
    """Without its plugins, so that it takes no installation; `mkdocs build --strict` checks all the rest."""
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    listed = re.findall(r"^ +- (?:.*: )?(\S+\.md)$", navigation, flags=re.MULTILINE)
    notebooks = [f"notebooks/{path.stem}.md" for path in (ROOT / "notebooks").glob("*.ipynb")]
    assert sorted(listed) == sorted([*(page.relative_to(ROOT / "docs").as_posix() for page in DOCS), *notebooks])


def test_an_equation_in_a_table_stays_in_its_cell():
    rows = [line for page in (ROOT / "docs" / "method").glob("*.md") for line in page.read_text().splitlines()]
    torn = [row for row in rows if row.startswith("|") for cell in row.split("|") if cell.count("$") % 2]
    assert torn == []


def test_every_picture_is_shown_on_a_page():
    shown = {(page.parent / link).resolve() for page in PAGES for link in links(page)}
    assert sorted(set((ROOT / "docs").glob("**/*.png")) - shown) == []


def test_every_result_says_first_what_it_shows():
    results = re.findall(r"\]\((\w+\.md)\)", (ROOT / "docs" / "results.md").read_text())
    late = [name for name in results if "**What it shows.**" not in (ROOT / "docs" / name).read_text().split("\n\n")[1]]
    assert len(results) > 10
    assert late == []


def documented():
    return [name for page in DOCS for name in re.findall(r"^::: (\S+)$", page.read_text(), flags=re.MULTILINE)]


@pytest.mark.parametrize("room", ["", *ROOMS])
def test_the_reference_has_every_public_name(room):
    import_module(f"reflow_lightning.{room}".rstrip("."))
    names = sys.modules[f"reflow_lightning.{room}".rstrip(".")].__all__  # `collapse` is a function of the package, too
    assert sorted(set(names) - {name.rpartition(".")[2] for name in documented()}) == []


def test_the_reference_documents_only_what_there_is():
    missing = [
        name for name in documented() if not hasattr(import_module(name.rpartition(".")[0]), name.split(".")[-1])
    ]
    assert missing == []
