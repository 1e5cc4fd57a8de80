"""Analyses a sweep for its page: compares its settings, rates the importance of its keys, and draws its figures.

``gather`` calls it. Values on different data sets can't be compared, so each data set of a sweep is a part of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from digitlab.compare.drawing import comparison_figure
from digitlab.compare.settings import compare_settings
from digitlab.compare.wording import comparison_table, sentence
from digitlab.figures.style import encode
from digitlab.report.page import Picture
from digitlab.report.tables import Table
from digitlab.sweeps.importance import Importances, importances
from digitlab.sweeps.report import rate_test_lines
from digitlab.sweeps.summary_figures import summary_figures
from digitlab.sweeps.table import SweepTable

# The headings of the figures, by the beginnings of their names.
_TITLES = {
    "settings": "All settings",
    "importance": "Importance of the keys",
    "contours": "The two most important keys",
    "learning_curve": "Learning curve",
    "learning_rate_range": "Learning-rate range test",
}
_INTERVALS = (
    "Each difference is that of the better setting minus the other one, with Student's 95 % interval; p is corrected "
    "for all comparisons (Holm, 1979), the intervals are not."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepAnalysis:
    """Tables and figures for the page; ``skipped`` says which analyses do not apply to this sweep, and why."""

    tables: Sequence[Table]
    pictures: Sequence[Picture]
    skipped: Sequence[str]


def analyse_sweep(sweep: SweepTable) -> SweepAnalysis:
    """Analyse the runs on each data set of the sweep separately."""
    tables, pictures, skipped = list[Table](), list[Picture](), list[str]()
    parts = sweep.by_data_set()
    for part in parts:
        if part.metric is None or not part.keys:
            continue  # there is nothing to compare: no run has finished, or there is one setting
        suffix = f" ({part.name})" if len(parts) > 1 else ""
        comparison = compare_settings(part)
        if isinstance(comparison, str):
            skipped.append(f"comparison of the settings{suffix}: {comparison}")
        else:
            title = f"The best setting against the others{suffix}"
            note = " ".join([_INTERVALS, *(f"{_capitalised(line)}." for line in comparison.notes)])
            sentences = [f"{sentence(each)}." for each in comparison.comparisons]
            tables.append(Table(title, *comparison_table(comparison.comparisons), note=note, sentences=sentences))
            figure = comparison_figure(comparison.comparisons)
            pictures.append(Picture(title, f"{title}: {sentences[0]}", encode(figure)))
        importance = importances(part)
        if isinstance(importance, str):
            # With one key, nobody expects a comparison of keys.
            skipped += [f"importance of the keys{suffix}: {importance}"] if len(part.keys) > 1 else []
        else:
            tables.append(_importance_table(importance, suffix))
        pictures += _pictures(part, None if isinstance(importance, str) else importance, suffix)
    return SweepAnalysis(tables=tables, pictures=pictures, skipped=skipped)


def _capitalised(text: str) -> str:
    """Start ``text`` with a capital letter, unless it starts with a setting such as ``lr=0.1``."""
    return text if "=" in text.partition(" ")[0] else text[:1].upper() + text[1:]


def _importance_table(importance: Importances, suffix: str) -> Table:
    rows = [
        [each.key, f"{100 * each.share:.0f}", f"{100 * each.interval[0]:.0f} to {100 * each.interval[1]:.0f}"]
        for each in importance.keys
    ]
    columns = ["key", "importance in %", "95 % interval"]
    return Table(f"Importance of the keys{suffix}", columns, rows, note=f"{importance.note}.")


def _pictures(part: SweepTable, importance: Importances | None, suffix: str) -> list[Picture]:
    pictures = []
    for name, figure in summary_figures(part, importance):
        title = next(title for start, title in _TITLES.items() if name.startswith(start))
        text = f"{title}: {part.name}"
        if name == "learning_rate_range":
            text = "; ".join(line.strip() for line in rate_test_lines(part))
        pictures.append(Picture(f"{title}{suffix}", text, encode(figure)))
    return pictures
