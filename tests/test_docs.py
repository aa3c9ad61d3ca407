"""What the README and the pages of docs/ say can be run, runs; what they link to exists; the site has every page."""

import re

import pytest
from pages import DOCS, PAGES, ROOT, anchors, commands, examples, links, named
from scenarios.commands import program


def test_there_are_examples_and_commands():
    assert len(examples()) >= 25
    assert len(commands()) >= 15


def example(name, block):
    """Those that train take some ten seconds; of these only the README's is run each time."""
    is_slow = ".fit(" in block and not name.startswith("README")
    return pytest.param(block, id=name, marks=[pytest.mark.slow] if is_slow else [])


@pytest.mark.parametrize("block", [example(*found) for found in examples()])
def test_an_example_runs(block, tmp_path):
    if "transformers" in block:
        pytest.importorskip("transformers")
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
    assert sorted(listed) == sorted(page.relative_to(ROOT / "docs").as_posix() for page in DOCS)


def test_every_picture_is_shown_on_a_page():
    shown = {(page.parent / link).resolve() for page in PAGES for link in links(page)}
    assert sorted(set((ROOT / "docs").glob("**/*.png")) - shown) == []


def test_every_result_says_first_what_it_shows():
    results = re.findall(r"\]\((\w+\.md)\)", (ROOT / "docs" / "results.md").read_text())
    late = [name for name in results if "**What it shows.**" not in (ROOT / "docs" / name).read_text().split("\n\n")[1]]
    assert len(results) > 10
    assert late == []
