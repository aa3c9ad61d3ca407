"""The notebooks as pages of the site, with the pictures and the output that they were saved with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File
from nbconvert import MarkdownExporter

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def on_files(files: Any, config: Any, **_: object) -> Any:
    """Add a page for each notebook, and its pictures."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        text, pictures = converted(path)
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=text))
        for name, content in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Have links to notebooks, which lie beside the documentation, lead to their pages."""
    return re.sub(r"\]\(\.\./((?:\.\./)*notebooks/\w+)\.ipynb\)", r"](\1.md)", markdown)


def converted(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and its pictures by file name."""
    text, resources = MarkdownExporter().from_filename(str(path), {"unique_key": path.stem, "output_files_dir": "."})
    pictures = {Path(name).name: content for name, content in resources["outputs"].items()}
    for there, here in (("](./", "]("), ("](../docs/", "](../")):
        text = text.replace(there, here)
    text = re.sub(r"\]\((\w+)\.ipynb\)", r"](\1.md)", text)
    return "\n".join(line for line in text.splitlines() if not line.startswith("%")), pictures  # magics of Jupyter's
