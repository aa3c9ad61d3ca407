"""The pages that people read: the README and everything in docs/, with their examples, commands and links."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("**/*.md"))
PAGES = [README, *DOCS]
RUN_ELSEWHERE = {"your_own_project.md"}  # a whole project: tests/test_your_own_project.py


def named(page):
    return page.relative_to(ROOT).as_posix()


def fenced(page, language):
    """The texts of the blocks in a language; those in lists lose their indentation."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def prose(page):
    """The text without its blocks of code."""
    return re.sub(r"^( *)```.*?^\1```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def links(page):
    """What links and pictures of the page lead to, in this repository."""
    return re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", prose(page))


def anchors(page):
    """The anchors of the titles, and of the names that the reference documents."""
    titles = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", title.lower()).strip() for title in titles]
    documented = re.findall(r"^::: (\S+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", title) for title in plain} | set(documented)


def examples():
    """``(page:number, program)`` of every block of Python that has to run by itself."""
    pages = [page for page in PAGES if page.name not in RUN_ELSEWHERE]
    return [(f"{named(page)}:{n}", block) for page in pages for n, block in enumerate(fenced(page, "python"))]


def commands():
    """``(page, line)`` of every call of the application."""
    lines = [(page, line) for page in PAGES for block in fenced(page, "bash") for line in block.splitlines()]
    return [
        (named(page), line)
        for page, line in lines
        if line.startswith("reflow-lightning") and page.name not in RUN_ELSEWHERE
    ]
