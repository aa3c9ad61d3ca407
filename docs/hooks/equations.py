"""Equations as MathML, written when the site is built: the pages need no script and nothing from elsewhere."""

import re

from latex2mathml.converter import convert

EQUATION = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', flags=re.DOTALL)


def on_page_content(html: str, **_: object) -> str:
    """Put MathML in the place of each equation that Arithmatex has marked."""
    return EQUATION.sub(_mathml, html)


def _mathml(found: re.Match[str]) -> str:
    from html import unescape

    tag, latex = found.groups()
    display = "inline" if tag == "span" else "block"
    return f'<{tag} class="equation">{convert(unescape(latex), display=display)}</{tag}>'
