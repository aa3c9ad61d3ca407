"""What the site makes of the sources when it is built: options, equations, examples."""

import importlib.util
import re
from types import SimpleNamespace

import pytest
import yaml
from pages import ROOT


def hook(name):
    spec = importlib.util.spec_from_file_location(f"{name}_of_the_site", ROOT / "docs" / "hooks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def flat(tree, prefix=""):
    for key, value in tree.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")


@pytest.fixture(scope="module")
def options():
    page = SimpleNamespace(file=SimpleNamespace(src_uri="reference/options.md"))
    return hook("options").on_page_markdown((ROOT / "docs" / "reference" / "options.md").read_text(), page)


@pytest.mark.parametrize("name", ["config", "search"])
def test_every_key_of_the_application_is_in_the_options(options, name):
    tree = yaml.safe_load((ROOT / "conf" / f"{name}.yaml").read_text())
    wanted = {key for key in flat(tree) if not re.match(r"defaults|hydra\b|.*\._", key)}
    assert wanted - set(re.findall(r"^\| `(.+?)` \|", options, flags=re.MULTILINE)) == set()


def test_every_choice_of_every_group_is_in_the_options(options):
    missing = [p for p in (ROOT / "conf").glob("*/*.yaml") if f"{p.parent.name}={p.stem}" not in options]
    assert missing == []


def test_a_default_of_the_options_is_the_one_of_the_configuration(options):
    assert "| `epochs` | `30` | epochs of training before a pruning that comes once |" in options


def test_the_options_need_their_marks():
    page = SimpleNamespace(file=SimpleNamespace(src_uri="reference/options.md"))
    with pytest.raises(ValueError, match="no place for the options"):
        hook("options").on_page_markdown("nothing", page)


def test_an_equation_becomes_mathml():
    pytest.importorskip("latex2mathml")
    made = hook("equations").on_page_content(r'<p><span class="arithmatex">\(a &lt; \frac{b}{c}\)</span></p>')
    assert "<mfrac>" in made
    assert "&#x0003C;" in made
    assert "arithmatex" not in made


def test_an_equation_that_is_not_understood_ends_the_build():
    pytest.importorskip("latex2mathml")
    with pytest.raises(ValueError, match="can't be converted"):
        hook("equations").on_page_content(r'<div class="arithmatex">\[\unheardof{a} &amp; b\]</div>')


def test_doctests_become_examples():
    pytest.importorskip("griffe")
    found = SimpleNamespace(docstring=SimpleNamespace(value="Do it.\n\nExample:\n    >>> 1\n    1\n"))
    hook("examples").Examples().on_object(obj=found)
    assert "\nExamples:\n" in found.docstring.value


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_becomes_a_page_with_its_pictures(path):
    pytest.importorskip("nbconvert")
    text, pictures = hook("notebooks").converted(path)
    assert text.startswith("# ")
    assert pictures
    assert set(pictures) == set(re.findall(r"!\[.*?\]\((.+?)\)", text))
    assert all(content.startswith(b"\x89PNG") for content in pictures.values())
    assert not re.search(r"\.ipynb\)|\]\(\.\./docs|^%", text, flags=re.MULTILINE)
    assert path.stem in (ROOT / "mkdocs.yml").read_text()


def test_a_link_to_a_notebook_leads_to_its_page():
    pytest.importorskip("nbconvert")
    made = hook("notebooks").on_page_markdown("[a](../notebooks/a.ipynb) [b](../../notebooks/b.ipynb)")
    assert made == "[a](notebooks/a.md) [b](../notebooks/b.md)"
