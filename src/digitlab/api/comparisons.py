"""``Comparisons``: tells Python users whether one setting is better than another. It is ``digitlab compare`` in Python.

``digitlab.compare_runs`` and ``Sweep.compare`` return it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from digitlab.api import html
from digitlab.api.arguments import brief, options_as_arguments
from digitlab.api.frames import to_frame
from digitlab.compare.comparison import Comparison, compare_groups, monitored_metric
from digitlab.compare.groups import read_groups
from digitlab.compare.predictions import compare_images
from digitlab.compare.wording import sentence, test_set_warning
from digitlab.core.errors import ConfigError, show

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = ("better", "other", "difference", "95 % interval", "pairs", "p")


class Comparisons:
    """The difference between each two groups of finished runs, with an interval, a p-value and a sentence.

    ``folders`` contain the runs. Each folder is a group, or, with ``key``, each value of this key in all folders. Only
    runs that meet the conditions ``where``, such as ``model=mlp``, are compared. ``metric`` is by default the metric
    that the runs monitored. ``sentences`` and ``notes`` are the lines that ``print`` shows. Raises ``ConfigError`` if
    the runs can't be compared.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        *,
        key: str | None = None,
        metric: str | None = None,
        where: Sequence[str] | Mapping[str, Any] = (),
    ) -> None:
        if isinstance(where, Mapping):
            where = [f"{name}={show(value)}" for name, value in where.items()]
        if not isinstance(where, Sequence):
            raise ConfigError("where", brief(where), 'must be a dict, or a list of texts such as ["optimizer=adam"]')
        where = [where] if isinstance(where, str) else list(where)
        for name, value in (("key", key or ""), ("metric", metric or ""), *(("where", each) for each in where)):
            if not isinstance(value, str):
                example = "optimizer=adam" if name == "where" else "optimizer.lr" if name == "key" else "val/accuracy"
                raise ConfigError(name, brief(value), f"must be a text, such as {example}")
        with options_as_arguments():
            groups = read_groups(folders, key=key, where=where)
            self.metric = metric or monitored_metric(groups)
            self._comparisons = compare_groups(groups, self.metric)
        self.sentences = [f"{sentence(each)}." for each in self._comparisons]
        self.notes = list(dict.fromkeys(note for each in self._comparisons for note in each.notes))
        image_sentences, image_notes = compare_images(groups)
        self.sentences += image_sentences
        self.notes += image_notes

    @property
    def table(self) -> Any:
        """One row per comparison, the best group first: a data frame or a list of dicts.

        ``difference`` is the mean of ``better`` minus ``other`` in the metric; its 95 % interval goes from ``low`` to
        ``high``. ``pairs`` is 0 if the runs are not paired. ``p`` is that of the t test, corrected for the number of
        comparisons (Holm), ``permutation_p`` that of a permutation test, not corrected. ``effect_size`` is Cohen's d.
        """
        return to_frame([_row(each) for each in self._comparisons])

    def figure(self) -> "Figure":
        """Draw the paired runs, and the differences with their intervals, as a Matplotlib figure."""
        from digitlab.api.display import shown_in_notebooks
        from digitlab.compare.drawing import comparison_figure

        return shown_in_notebooks(comparison_figure(self._comparisons), f"differences in {self.metric}")

    def __str__(self) -> str:
        return "\n".join([*self.sentences, *(f"note: {note}" for note in self.notes)])

    def __repr__(self) -> str:
        return f"<Comparisons of {self.metric}>\n{self}"

    def _repr_html_(self) -> str:
        """Return what notebooks show: the sentences, the notes, and the table."""
        remark = test_set_warning(self.metric) or "comparison"
        parts = [html.title(self.metric, remark), *map(html.paragraph, self.sentences)]
        parts += [html.paragraph(f"Note: {note}", small=True) for note in self.notes]
        return "".join([*parts, html.table(_COLUMNS, [_cells(each) for each in self._comparisons], words=2)])


def _row(comparison: Comparison) -> dict[str, Any]:
    difference = comparison.difference
    low, high = difference.interval or (None, None)
    return {
        "better": comparison.first, "other": comparison.second, "metric": comparison.metric,
        "difference": difference.mean, "low": low, "high": high, "pairs": difference.count if difference.paired else 0,
        "p": comparison.corrected_p_value, "permutation_p": difference.permutation_p_value,
        "effect_size": difference.effect_size, "significant": comparison.significant,
    }  # fmt: skip


def _cells(comparison: Comparison) -> list[str]:
    difference, p_value = comparison.difference, comparison.corrected_p_value
    interval = "" if difference.interval is None else "{:+.4f} to {:+.4f}".format(*difference.interval)
    return [
        comparison.first, comparison.second, f"{difference.mean:+.4f}", interval,
        str(difference.count) if difference.paired else "none", "" if p_value is None else f"{p_value:.4f}",
    ]  # fmt: skip
