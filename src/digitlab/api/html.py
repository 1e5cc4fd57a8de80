"""The HTML that notebooks show for ``Run``, ``Sweep`` and ``Comparisons``: readable on light and on dark pages.

It needs no style sheet, because a notebook may show it on any page: all styles stand in the elements.
"""

import html
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from digitlab.config.compose import ROOT
from digitlab.results.table import contain_words

# Only the page's own colours: the text inherits its colour, and half-transparent grey lines show on any background.
_CELL = "padding:0.2em 0.8em;border-bottom:1px solid rgba(128,128,128,0.35);background:none;color:inherit;min-width:0"
_TABLE = "border-collapse:collapse;margin:0.5em 0;font-variant-numeric:tabular-nums;border:none;color:inherit"
_SMALL = "opacity:0.7;font-size:0.85em"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, words: int | Collection[str]) -> str:
    """Return a table, without a head if ``columns`` is empty. ``words`` is as in ``results.table.contain_words``."""
    left = contain_words(columns or [""] * len(rows[0]), words)

    def cell_html(tag: str, column: int, text: str) -> str:
        align = "left" if left[column] else "right;white-space:nowrap"
        return f'<{tag} style="{_CELL};text-align:{align}">{html.escape(text)}</{tag}>'

    def row_html(tag: str, texts: Sequence[str]) -> str:
        return f"<tr>{''.join(cell_html(tag, column, text) for column, text in enumerate(texts))}</tr>"

    head = f"<thead>{row_html('th', columns)}</thead>" if columns else ""
    return f'<table style="{_TABLE}">{head}<tbody>{"".join(row_html("td", row) for row in rows)}</tbody></table>'


def heading(name: str, status: str, path: Path) -> str:
    """Return the name, the status and the folder. A folder inside the project is relative to the project."""
    shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    return f'{title(name, status)}<div style="{_SMALL}"><code>{html.escape(str(shown))}</code></div>'


def title(name: str, status: str) -> str:
    """Return a line with a name in bold and its status."""
    return f"<div><b>{html.escape(name)}</b> · {html.escape(status)}</div>"


def paragraph(text: str, *, small: bool = False) -> str:
    """Return a paragraph of text."""
    return f'<div style="margin:0.4em 0;{_SMALL if small else ""}">{html.escape(text)}</div>'


def facts(values: Mapping[str, str]) -> str:
    """Return names and values as a table of two columns."""
    return table((), list(values.items()), words=1)


def line(values: Mapping[str, str]) -> str:
    """Return names and values as one line of small text."""
    text = " · ".join(f"{name} {value}" for name, value in values.items())
    return f'<div style="{_SMALL}">{html.escape(text)}</div>'


def details(summary: str, content: str) -> str:
    """Return ``content``, which is HTML, below a line ``summary`` that opens and closes it."""
    return f"<details><summary>{html.escape(summary)}</summary>{content}</details>"
