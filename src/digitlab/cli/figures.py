"""``digitlab figures``: draw every figure of a finished run."""

from pathlib import Path
from typing import Annotated

import typer

from digitlab.cli.app import Folder, app


@app.command()
def figures(
    folder: Folder,
    out: Annotated[Path | None, typer.Option(help="Where to write.  [default: RUN_FOLDER/figures]")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing figures.")] = False,
    classes: Annotated[
        list[str] | None, typer.Option("--class", metavar="NAME", help="Hidden units of this class only; repeatable.")
    ] = None,
    gif_images: Annotated[int, typer.Option(min=0, help="Training images for the GIFs; 0: no GIFs.")] = 99,
    gif_batch: Annotated[int, typer.Option(min=1, help="Images per training step in the GIFs.")] = 1,
    gif_every: Annotated[int, typer.Option(min=1, help="Training steps per frame of the GIFs.")] = 1,
) -> None:
    """Draw every figure of a run: history, images, weights, confusions, confidences, and GIFs of weights that learn.

    If a figure does not apply to the run, print the reason and draw the others.
    """
    from digitlab.config.schema import nearest
    from digitlab.core.errors import ConfigError
    from digitlab.figures.gallery import GifOptions, make_figures, require_no_overwrite
    from digitlab.figures.run_data import read_rows, read_run_data
    from digitlab.training.loading import load_data, open_run

    run = open_run(folder)
    read_rows(run)
    names = load_data(run).source.class_names
    out = run.figures if out is None else out
    for name in classes or []:
        if name not in names:
            raise ConfigError("--class", name, f"must be one of {', '.join(names)}{nearest(name, names)}")
    if not force:
        require_no_overwrite(out, names)
    chosen = [names.index(name) for name in classes] if classes else None
    options = GifOptions(images=gif_images, batch_size=gif_batch, steps_per_frame=gif_every)
    for name, reason in make_figures(read_run_data(run), out, classes=chosen, options=options):
        print(out / name if reason is None else f"left out: {name}: {reason}")
