"""``digitlab compare``: say whether one run, sweep or setting is better than another, with statistics."""

from pathlib import Path
from typing import Annotated

import typer

from digitlab.cli.app import app, refuse_without_effect
from digitlab.core.errors import ConfigError


@app.command()
def compare(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER…", help="Runs, sweeps, or folders that contain runs at any depth.")
    ],
    key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Compare the values of this key, for example optimizer.lr.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(metavar="METRIC", help="For example test/accuracy.  [default: the monitored metric]")
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Compare only runs with this setting; repeatable.")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also draw pairs and differences in a .png, .pdf or .svg file.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing figure.")] = False,
) -> None:
    """Compare groups of finished runs, paired by seed, fold and all other settings.

    Print each difference with its 95 % interval and its p-value, which is corrected for the number of comparisons
    (Holm), and one sentence for each. The default metric is the monitored one, so that the test set stays unused.
    """
    from digitlab.compare.comparison import compare_groups, monitored_metric
    from digitlab.compare.groups import read_groups
    from digitlab.compare.predictions import compare_images
    from digitlab.compare.wording import comparison_table, sentence, test_set_warning
    from digitlab.results.table import print_table

    if figure is None:
        refuse_without_effect("without --figure nothing is written", force=force)
    _check_figure(figure, force=force)
    groups = read_groups(folders, key=key, where=where or ())
    metric = metric or monitored_metric(groups)
    comparisons = compare_groups(groups, metric)
    warning = test_set_warning(metric)
    print_table(*comparison_table(comparisons), title=f"{metric} ({warning})" if warning else metric, words=2)
    image_sentences, image_notes = compare_images(groups)
    for line in [*(f"{sentence(comparison)}." for comparison in comparisons), *image_sentences]:
        print(line)
    for note in dict.fromkeys([*(note for each in comparisons for note in each.notes), *image_notes]):
        print(f"note: {note}")
    if figure is not None:
        from digitlab.compare.drawing import comparison_figure
        from digitlab.core.files import write_atomically
        from digitlab.figures.style import encode

        # ``_check_figure`` has checked the suffix.
        content = encode(comparison_figure(comparisons), figure.suffix[1:])  # type: ignore[arg-type]
        write_atomically(figure, content)
        print(figure)


def _check_figure(figure: Path | None, *, force: bool) -> None:
    """Raise ``ConfigError`` before the slow comparison if the figure can't be written later."""
    if figure is None:
        return
    if figure.suffix not in (".png", ".pdf", ".svg"):
        raise ConfigError("--figure", figure, "must end in .png, .pdf or .svg")
    from digitlab.core.files import require_writable

    require_writable(figure, option="--figure", force=force)
