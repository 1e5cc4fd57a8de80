"""``digitlab export``: write the network of a run to a file that other programs can use."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from digitlab.cli.app import CheckpointOption, Folder, app


class Format(StrEnum):
    """The formats of an exported network."""

    ONNX = "onnx"
    SAFETENSORS = "safetensors"
    TORCH = "torch"


class Pixels(StrEnum):
    """The type of the pixels that the exported network takes: floats in [0, 1], or bytes in 0 … 255."""

    FLOAT32 = "float32"
    UINT8 = "uint8"


@app.command()
def export(
    folder: Folder,
    to: Annotated[
        Format, typer.Option("--to", help="An ONNX model, the weights alone, or a program of torch.export (.pt2).")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The file to write.  [default: RUN_FOLDER/network.onnx, …]")
    ] = None,
    checkpoint: CheckpointOption = "best",
    pixels: Annotated[
        Pixels,
        typer.Option(
            "--input", help="Type of the images that the network takes: floats in [0, 1], or bytes in 0 … 255."
        ),
    ] = Pixels.FLOAT32,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Export the network of a run. It maps images (N, C, H, W) to probabilities (N, K) and includes the normalisation.

    Before the command writes the file, it compares the export with the run on up to 1,000 test images. The metadata of
    the file contains the class names. --to onnx and --to safetensors need the extra "export".
    """
    from digitlab.results.run_hints import open_run

    # The imports that follow take seconds, so a wrong folder is reported before them.
    run = open_run(folder)
    from digitlab.export.run import export_run

    exported = export_run(run, to.value, out, checkpoint=checkpoint, pixels=pixels.value, force=force)
    print(exported.agreement)
    if exported.note:
        print(f"note: {exported.note}")
    print(exported.path)
