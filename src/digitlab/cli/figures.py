"""``digitlab figures``: draw every figure of a finished run."""

from pathlib import Path
from typing import Annotated

import typer

from digitlab.cli.app import FileFormat, Folder, WidthOption, app, print_progress, refuse_without_effect

# With the other defaults, this makes 100 frames: one with the initial weights, and one after each step.
_GIF_IMAGES = 99


@app.command()
def figures(
    folder: Folder,
    out: Annotated[Path | None, typer.Option(help="Folder for the figures.  [default: RUN_FOLDER/figures]")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing figures.")] = False,
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", metavar="NAME", help="Show hidden units of this class only; repeatable."),
    ] = None,
    file_format: Annotated[
        FileFormat, typer.Option("--format", help="File format of the figures; animations are always GIFs.")
    ] = FileFormat.PNG,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Draw only this figure and no GIFs, for example confusion_matrix; repeatable."
        ),
    ] = None,
    width: WidthOption = None,
    gif_images: Annotated[
        int, typer.Option(min=0, help="Number of training images for the GIFs; 0: no GIFs.")
    ] = _GIF_IMAGES,
    gif_batch: Annotated[int, typer.Option(min=1, help="Number of images per training step in the GIFs.")] = 1,
    gif_every: Annotated[int, typer.Option(min=1, help="Number of training steps per frame of the GIFs.")] = 1,
) -> None:
    """Draw all figures of a run: history, images, weights, confusions, confidences, and GIFs of weights in training.

    Print the path of each figure, or the reason why the figure does not apply to the run. Progress goes to stderr.
    """
    from digitlab.config.suggestions import not_one_of
    from digitlab.core.files import require_writable_folder
    from digitlab.results.run_hints import open_run

    _refuse_options_without_effect(gif_images, gif_batch=gif_batch, gif_every=gif_every, only=only, classes=classes)
    run = open_run(folder)
    # Imported late, because they import torch, which takes seconds: the errors above appear at once.
    from digitlab.figures.gallery import figure_names, make_figures, require_no_overwrite
    from digitlab.figures.gifs import GifOptions
    from digitlab.figures.run_data import read_rows, read_run_data
    from digitlab.training.loading import load_data

    options = GifOptions(images=gif_images, batch_size=gif_batch, steps_per_frame=gif_every)
    # Called only for its error: a run without a finished epoch has nothing to draw. This check is quick.
    read_rows(run)
    names = load_data(run).source.class_names
    out = run.figures if out is None else out
    for name in classes or []:
        if name not in names:
            raise not_one_of("--class", name, names)
    only = None if not only else [_figure_name(name) for name in dict.fromkeys(only)]
    file_names = figure_names(names, file_format.value, only=only)
    if not force:
        require_no_overwrite(out, file_names)
    require_writable_folder(out / file_names[0], option="--out")
    class_indices = [names.index(name) for name in classes] if classes else None
    # A generator: it draws a figure only when ``next`` asks for it, so the line on stderr says what is drawn now.
    drawing = make_figures(
        read_run_data(run), out, classes=class_indices, options=options, only=only,
        file_format=file_format.value, width=None if width is None else width.value,
    )  # fmt: skip
    for number, name in enumerate(file_names, 1):
        print_progress(f"figure {number} of {len(file_names)}: {name}")
        _, reason = next(drawing)
        print(out / name if reason is None else f"skipped: {name}: {reason}", flush=True)


def _refuse_options_without_effect(
    gif_images: int, *, gif_batch: int, gif_every: int, only: list[str] | None, classes: list[str] | None
) -> None:
    """Raise ``ConfigError`` for options of GIFs if none is drawn, and for ``--class`` if no figure shows classes."""
    step_options = {"gif_batch": gif_batch != 1, "gif_every": gif_every != 1}
    if only:
        refuse_without_effect("--only draws no GIFs", gif_images=gif_images != _GIF_IMAGES, **step_options)
        if all(name.partition(".")[0] != "weights_units" for name in only):
            refuse_without_effect("only weights_units and GIFs show hidden units", **{"class": bool(classes)})
    elif gif_images == 0:
        refuse_without_effect("--gif-images 0 draws no GIFs", **step_options)


def _figure_name(name: str) -> str:
    """Return the name of the figure that the user means: ``confusion_matrix`` for ``confusion_matrix.png``, too.

    Raises ``ConfigError`` if there is no such figure.
    """
    from digitlab.config.suggestions import not_one_of
    from digitlab.figures.gallery import FIGURES

    figure = name.partition(".")[0]
    if figure not in FIGURES:
        raise not_one_of("--only", name, FIGURES)
    return figure
