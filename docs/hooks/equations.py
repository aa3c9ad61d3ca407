"""Equations as MathML, written when the site is built: the pages need no script and nothing from elsewhere."""

from __future__ import annotations

import re
import shutil
from html import unescape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

EQUATION = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', flags=re.DOTALL)
BARS = re.compile("<mo>(&#x0007C;|&#x02016;|&#x02225;)</mo>")  # of norms, which a browser stretches each on its own
FONT = (
    "fonts/STIXTwoMath-Regular.ttf"  # under the Open Font License; browsers without a font for equations misplace signs
)


def on_page_content(html: str, **_: object) -> str:
    """Put MathML in the place of each equation that Arithmatex has marked."""
    return EQUATION.sub(_mathml, html)


def on_post_build(config: Any, **_: object) -> None:
    """Bring the font along, which the package ziamath holds."""
    spec = find_spec("ziamath")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the font of the equations is in ziamath: python -m pip install '.[docs]'")
    target = Path(config["site_dir"]) / "assets" / FONT
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(spec.origin).parent / FONT, target)


def _mathml(found: re.Match[str]) -> str:
    from latex2mathml.converter import convert

    tag, latex = found.groups()
    made = convert(unescape(latex), display="inline" if tag == "span" else "block")
    if re.search(
        r"\\|&#x00026;|&amp;", made
    ):  # a command or a table that the converter does not know, as its plain text
        raise ValueError(f"this equation can't be converted: {latex}")
    made = BARS.sub(r'<mo stretchy="false">\1</mo>', made)
    return f'<{tag} class="equation">{made}</{tag}>'
