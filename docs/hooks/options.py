"""The options of the application, read from ``conf/`` when the site is built, so that the page is always true."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CONF = Path(__file__).parents[2] / "conf"
PAGE = "reference/options.md"
NAMED_ONLY = ("experiment", "recipe")  # many, and each is a handful of settings of the other groups
_KEY = re.compile(r"^(?P<indent> *)(?P<key>[\w.]+):(?P<value>(?: \S+)*?)(?: +# (?P<what>.*))?$")


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """Put tables in the place of the marks ``<!-- options: ... -->``."""
    if page.file.src_uri != PAGE:
        return markdown
    made = {"keys": table(CONF / "config.yaml"), "search": table(CONF / "search.yaml"), "groups": groups(CONF)}
    for mark, block in made.items():
        before, found, after = markdown.partition(f"<!-- options: {mark} -->")
        if not found:
            raise ValueError(f"{PAGE} has no place for the options: <!-- options: {mark} -->")
        markdown = before + block + after
    return markdown


def table(path: Path) -> str:
    """The keys of a configuration with their defaults and what they mean, as their comments say."""
    rows = [f"| `{key}` | {f'`{value}`' if value else ''} | {what} |" for key, value, what in keys(path)]
    return "\n".join(["| key | default | what it means |", "|---|---|---|", *rows])


def keys(path: Path) -> Iterator[tuple[str, str, str]]:
    """``(key, default, meaning)`` of every line, except the list of defaults, what Hydra reads, and targets."""
    above: list[tuple[int, str]] = []
    for line in path.read_text().splitlines():
        found = _KEY.match(line)
        if not found:
            continue
        indent = len(found["indent"])
        above = [(depth, key) for depth, key in above if depth < indent]
        full = ".".join([*(key for _, key in above), found["key"]])
        above.append((indent, found["key"]))
        if full.split(".")[0] in ("defaults", "hydra") or found["key"].startswith("_"):
            continue
        yield full, found["value"].strip().replace("|", "\\|"), (found["what"] or "").replace("|", "\\|")


def groups(conf: Path) -> str:
    """Every group with its choices: what each is, and its keys."""
    return "\n\n".join(_group(folder) for folder in sorted(conf.iterdir()) if any(folder.glob("*.yaml")))


def _group(folder: Path) -> str:
    name, choices = folder.name, sorted(folder.glob("*.yaml"))
    if name in NAMED_ONLY:
        lines = [f"* `{name}={choice.stem}`: {_about(choice)}" for choice in choices]
        return f"### {name}\n\n" + "\n".join(lines)
    return f"### {name}\n\n" + "\n\n".join(_choice(name, choice) for choice in choices)


def _choice(group: str, path: Path) -> str:
    body = [line for line in path.read_text().splitlines() if not re.match(r"# (?!@package)|#$", line)]
    block = "\n".join(f"    {line}".rstrip() for line in body)
    return f'??? info "{group}={path.stem}"\n\n    {_about(path)}\n\n    ```yaml\n{block}\n    ```'


def _about(path: Path) -> str:
    """The comment at the top."""
    lines = [line[2:] for line in path.read_text().splitlines() if line.startswith("# ") and "@package" not in line]
    return " ".join(lines).replace("<", "&lt;") or "no more than its keys"
