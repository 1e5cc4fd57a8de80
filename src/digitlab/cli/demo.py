"""``digitlab demo``: write one HTML file in which the networks of runs answer to drawings and pictures."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from digitlab.cli.app import CheckpointOption, app
from digitlab.core.errors import ConfigError


@app.command()
def demo(
    folders: Annotated[
        list[Path], typer.Argument(metavar="RUN_FOLDER…", help="Runs whose networks the page shows side by side.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The file to write; required for several runs.  [default: RUN_FOLDER/demo.html]"
        ),
    ] = None,
    checkpoint: CheckpointOption = "best",
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing page.")] = False,
) -> None:
    """Write an HTML page on which you draw and networks answer. It needs no server and no internet connection.

    The page shows probabilities, which parts of an image matter, and hidden units. You can also guess the classes of
    test images. Needs the extra "export".
    """
    from digitlab.results.run_hints import open_run

    if out is None and len(folders) > 1:
        raise ConfigError("", "--out", "must name the output file if several runs are given")
    out = folders[0] / "demo.html" if out is None else out
    if out.suffix not in (".html", ".htm"):
        raise ConfigError("--out", out, "must end in .html: the demo is a web page")
    runs = [open_run(folder) for folder in folders]
    for number, run in enumerate(runs):
        if run in runs[:number]:
            raise ConfigError("RUN_FOLDER", folders[number], "is given twice: give each run once")
    # Imported late, because it imports torch, which takes seconds: the errors above appear at once.
    from digitlab.export.demo import write_demo

    for network in write_demo(runs, out, checkpoint=checkpoint, force=force):
        print(f"{network.name}: {network.agreement}", file=sys.stderr)
        if network.note:
            print(f"note: {network.name}: {network.note}", file=sys.stderr)
    print(out)
