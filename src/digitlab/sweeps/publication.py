"""Makes a table for a paper from the settings of a sweep: LaTeX, Markdown or CSV. ``digitlab sweep --table`` prints it.

A setting is the swept values of a run without its seed, fold and split seed; the statistics are over its runs.
"""

import csv
import io
import math
from collections.abc import Sequence
from typing import Literal

from digitlab.core.errors import show
from digitlab.figures.formatting import format_mean, is_percentage
from digitlab.results.table import markdown_table
from digitlab.sweeps.statistics import Summary
from digitlab.sweeps.table import Row, SweepTable

TableFormat = Literal["latex", "markdown", "csv"]

# Characters that mean something else in LaTeX, and the commands that print them.
_ESCAPED = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}",
}  # fmt: skip
_WITHOUT_RUNS = "–"


def publication_table(table: SweepTable, table_format: TableFormat) -> str:
    """Return a table of the settings of each data set, best first.

    The columns are the swept values, mean ± standard deviation of the monitored metric and of its counterpart on the
    test set, and n, the number of runs. The best setting by the monitored metric is bold. Metrics such as the accuracy
    are in per cent. In CSV they are shares in [0, 1], numbers are not rounded, and mean and standard deviation have
    separate columns. The LaTeX table needs the package booktabs.
    """
    parts = table.by_data_set()
    if table_format == "csv":
        return _csv(parts)
    write = _latex if table_format == "latex" else _markdown
    return "\n".join(write(part) for part in parts)


def _shown_metrics(table: SweepTable) -> list[str]:
    """Return the monitored metric, and its counterpart on the test set if a run measured it."""
    metric = table.metric or "monitored"
    test_metric = f"test/{metric.partition('/')[2]}"
    is_measured = any(run.metrics.get(test_metric) is not None for run in table.runs)
    return [metric, *([test_metric] if is_measured else [])]


def _summaries(row: Row, metrics: Sequence[str]) -> list[Summary | None]:
    """Return the summaries of the monitored metric, which comes first in ``metrics``, and of the test metrics."""
    return [row.summary, *(row.test_summary(name) for name in metrics[1:])]


def _count(summary: Summary | None) -> int:
    return 0 if summary is None else summary.count


def _csv(parts: Sequence[SweepTable]) -> str:
    text = io.StringIO()
    # A CSV file has one header, so it has the columns of all data sets. Cells that a data set lacks stay empty.
    keys = list(dict.fromkeys(key for part in parts for key in part.keys))
    metrics = list(dict.fromkeys(name for part in parts for name in _shown_metrics(part)))
    data_set_column = ["data set"] if len(parts) > 1 else []
    columns = [*data_set_column, *keys, *(f"{name} {what}" for name in metrics for what in ("mean", "sd")), "n"]
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for part in parts:
        for row in part.rows:
            cells: dict[str, object] = dict(zip(part.keys, map(show, row.setting), strict=True))
            cells |= {"n": _count(row.summary)} | ({"data set": part.name} if data_set_column else {})
            for name, summary in zip(_shown_metrics(part), _summaries(row, _shown_metrics(part)), strict=True):
                if summary is not None:
                    cells |= {f"{name} mean": summary.mean, f"{name} sd": "" if summary.sd is None else summary.sd}
            writer.writerow(cells)
    return text.getvalue()


def _markdown(table: SweepTable) -> str:
    metrics = _shown_metrics(table)
    columns = [*table.keys, *(_title(name) for name in metrics), "n"]
    rows = []
    for number, row in enumerate(table.rows):
        cells = [_mean_and_sd(name, each) for name, each in zip(metrics, _summaries(row, metrics), strict=True)]
        cells = [f"**{cell}**" if _is_best(number, row) else cell for cell in cells]
        rows.append([*(_plain(show(value)) for value in row.setting), *cells, str(_count(row.summary))])
    return f"{_caption(table)}\n\n{markdown_table(columns, rows, words=len(table.keys))}\n"


def _plain(text: str) -> str:
    """Return text that Markdown shows unchanged."""
    return "".join("\\" + letter if letter in "\\|*_`<[" else letter for letter in text)


def _latex(table: SweepTable) -> str:
    metrics = _shown_metrics(table)
    columns = [*table.keys, *(_title(name) for name in metrics), "n"]
    rows = []
    for number, row in enumerate(table.rows):
        # The sign ± is replaced after escaping, because escaping would change the dollar signs of $\pm$.
        cells = [
            _escaped(_mean_and_sd(name, each)).replace("±", r"$\pm$")
            for name, each in zip(metrics, _summaries(row, metrics), strict=True)
        ]
        # \textbf alone would not make the formula with the sign ± bold.
        cells = [rf"{{\boldmath\textbf{{{cell}}}}}" if _is_best(number, row) else cell for cell in cells]
        rows.append([*(_escaped(show(value)) for value in row.setting), *cells, str(_count(row.summary))])
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"  \centering",
        # chr() spells $\pm$, because before Python 3.12 an f-string can't have a backslash within its braces.
        rf"  \caption{{{_escaped(_caption(table)).replace('±', chr(36) + chr(92) + 'pm' + chr(36))}}}",
        rf"  \begin{{tabular}}{{{'l' * len(table.keys)}{'r' * (len(metrics) + 1)}}}",
        r"    \toprule",
        f"    {_latex_row([_escaped(name) for name in columns])}",
        r"    \midrule",
        *(f"    {_latex_row(row)}" for row in rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _escaped(text: str) -> str:
    return "".join(_ESCAPED.get(letter, letter) for letter in text).replace(_WITHOUT_RUNS, "--")


def _title(metric: str) -> str:
    return f"{metric} in %" if is_percentage(metric) else metric


def _caption(table: SweepTable) -> str:
    return f"{table.name}: mean ± standard deviation over n runs; bold: the best setting by {table.metric}."


def _is_best(number: int, row: Row) -> bool:
    """Return whether the row with this number is the best setting."""
    # The rows are sorted, so only the first one can be the best.
    return number == 0 and row.summary is not None


def _mean_and_sd(metric: str, summary: Summary | None) -> str:
    """Return a text such as ``97.12 ± 0.10``; for a single run only the value."""
    if summary is None:
        return _WITHOUT_RUNS
    if not math.isfinite(summary.mean):
        return "diverged"
    return format_mean(summary.mean, summary.sd, percent=is_percentage(metric))
