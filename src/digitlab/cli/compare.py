"""``digitlab compare``: say whether one run, sweep or setting is better than another, with statistics."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from digitlab.cli.app import app
from digitlab.core.errors import ConfigError

if TYPE_CHECKING:
    from digitlab.compare.comparison import Comparison
    from digitlab.compare.groups import Group


@app.command()
def compare(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER…", help="Runs, sweeps, or folders that contain runs at any depth.")
    ],
    key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Compare the values of this key instead, e.g. optimizer.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(metavar="METRIC", help="E.g. test/accuracy (default: the monitored metric).")
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only runs with this setting; may be repeated.")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also draw pairs and differences; .png, .pdf or .svg.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing figure.")] = False,
) -> None:
    """Compare groups of finished runs, paired by seed, fold and all other settings.

    Prints each difference with its 95 % interval and p-value, corrected for the number of comparisons (Holm), and one
    sentence each. Without --metric it uses the monitored metric, so that the test set stays untouched.
    """
    from digitlab.compare.comparison import compare_groups, monitored_metric, sentence
    from digitlab.compare.groups import read_groups
    from digitlab.results.table import print_table

    _check_figure(figure, force=force)
    groups = read_groups(folders, key=key, where=where or ())
    name = metric or monitored_metric(groups)
    comparisons = compare_groups(groups, name)
    chosen = " (on the test set: do not choose settings by it)" if name.startswith("test/") else ""
    columns = ["better", "other", "difference", "95 % interval", "bootstrap", "pairs", "p", "permutation p", "d"]
    print_table(columns, [_cells(each) for each in comparisons], title=f"{name}{chosen}", words=2)
    for comparison in comparisons:
        print(f"{sentence(comparison)}.")
    if len(groups) == 2 and all(len(group.runs) == 1 for group in groups):
        _print_predictions(*groups)
    for note in dict.fromkeys(note for each in comparisons for note in each.notes):
        print(f"note: {note}")
    if figure is not None:
        _draw(comparisons, figure)


def _check_figure(figure: Path | None, *, force: bool) -> None:
    if figure is None:
        return
    if figure.suffix not in (".png", ".pdf", ".svg"):
        raise ConfigError("--figure", figure, "must end in .png, .pdf or .svg")
    if not figure.parent.is_dir():
        raise ConfigError("--figure", figure, "must be a file in an existing folder")
    if figure.exists() and not force:
        raise ConfigError("--figure", figure, "already exists: --force overwrites it")


def _cells(comparison: "Comparison") -> list[str]:
    difference = comparison.difference
    bounds = [
        "" if bound is None else f"{bound[0]:+.4f} to {bound[1]:+.4f}"
        for bound in (difference.interval, difference.bootstrap_interval)
    ]
    numbers = [comparison.corrected_p_value, difference.permutation_p_value]
    pairs = str(difference.count) if difference.paired else "none"
    texts = ["" if number is None else f"{number:.4f}" for number in numbers]
    effect = "" if difference.effect_size is None else f"{difference.effect_size:+.2f}"
    return [comparison.first, comparison.second, f"{difference.mean:+.4f}", *bounds, pairs, *texts, effect]


def _print_predictions(first: "Group", second: "Group") -> None:
    from digitlab.compare.predictions import compare_predictions, mcnemar_sentence

    test = compare_predictions(first.runs[0], second.runs[0])
    if isinstance(test, str):
        print(f"note: no test of single images: {test}", file=sys.stderr)
    else:
        print(mcnemar_sentence(test, first.name, second.name))


def _draw(comparisons: Sequence["Comparison"], path: Path) -> None:
    from digitlab.core.files import write_atomically
    from digitlab.figures.differences import PairedValues, difference_figure
    from digitlab.figures.style import encode

    values = [
        PairedValues(
            first=each.first, second=each.second, pairs=each.pairs, mean=each.difference.mean,
            interval=each.difference.interval, significant=each.significant,
        )
        for each in comparisons
    ]  # fmt: skip
    figure = difference_figure(values, metric=comparisons[0].metric)
    write_atomically(path, encode(figure, path.suffix[1:]))  # type: ignore[arg-type]  # checked before
    print(path)
