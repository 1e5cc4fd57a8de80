"""The HTML that notebooks show for runs and sweeps: self-contained, readable on light and on dark pages."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from digitlab.config.compose import ROOT

# No colours but the page's own: the text is inherited, and lines are half-transparent grey on any background.
_CELL = "padding:0.2em 0.8em;border-bottom:1px solid rgba(128,128,128,0.35);background:none;color:inherit;min-width:0"
_TABLE = "border-collapse:collapse;margin:0.5em 0;font-variant-numeric:tabular-nums;border:none;color:inherit"
_SMALL = "opacity:0.7;font-size:0.85em"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, words: int) -> str:
    """Return a table; the first ``words`` columns are aligned to the left and the others, numbers, to the right."""

    def cell(kind: str, number: int, text: str) -> str:
        side = "left" if number < words else "right;white-space:nowrap"
        return f'<{kind} style="{_CELL};text-align:{side}">{html.escape(text)}</{kind}>'

    def line(kind: str, texts: Sequence[str]) -> str:
        return f"<tr>{''.join(cell(kind, number, text) for number, text in enumerate(texts))}</tr>"

    head = f"<thead>{line('th', columns)}</thead>" if columns else ""
    return f'<table style="{_TABLE}">{head}<tbody>{"".join(line("td", row) for row in rows)}</tbody></table>'


def heading(name: str, status: str, path: Path) -> str:
    """Return the name, the status, and the folder: relative to the project, if it lies there."""
    shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    return f'{title(name, status)}<div style="{_SMALL}"><code>{html.escape(str(shown))}</code></div>'


def title(name: str, status: str) -> str:
    """Return a line with a name in bold and what it is."""
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
    """Return ``content``, HTML, below a line that opens and closes it."""
    return f"<details><summary>{html.escape(summary)}</summary>{content}</details>"
