"""``digitlab explain``: show why a network answers as it does, and what it has learned."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from digitlab.cli.app import FileFormat, Folder, app
from digitlab.core.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from digitlab.explain.network import ExplainedRun
    from digitlab.explain.predictions import Subjects


class What(StrEnum):
    """The explanations that the command can show."""

    PREDICTIONS = "predictions"
    CLASSES = "classes"
    LAYERS = "layers"
    EMBEDDING = "embedding"
    PROJECTOR = "projector"


@app.command()
def explain(
    folder: Folder,
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="IMAGE…",
            readable=False,
            help="Your own pictures or folders of pictures.  [default: the most confident mistakes]",
        ),
    ] = None,
    what: Annotated[
        list[What] | None,
        typer.Option(
            help="predictions: which pixels decide, and the nearest training images. classes: images that maximise the "
            "score of each class. layers: filters and feature maps. embedding: the last hidden layer by PCA and t-SNE. "
            "projector: files of the last hidden layer for TensorBoard. Repeatable.  [default: predictions]",
        ),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="The number of mistakes to explain, if you give no images.")] = 8,
    class_name: Annotated[
        str | None, typer.Option("--class", metavar="NAME", help="Explain this class instead of the predicted one.")
    ] = None,
    points: Annotated[
        int, typer.Option(min=3, help="The largest number of images for embedding and projector.")
    ] = 2000,
    out: Annotated[Path | None, typer.Option(help="Folder for the figures.  [default: RUN_FOLDER/figures]")] = None,
    file_format: Annotated[FileFormat, typer.Option("--format", help="File format of the figures.")] = FileFormat.PNG,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False,
) -> None:
    """Explain the predictions of a run, for your own pictures or for its most confident mistakes.

    Print a table and draw a figure. The checkpoint is the one that the run tested. Needs the extra "explain".
    """
    from digitlab.core.extras import require_packages

    require_packages("explain", "captum", "sklearn", value="digitlab explain")
    from digitlab.core.files import require_writable_folder, write_atomically
    from digitlab.results.run_hints import open_run

    run_folder = open_run(folder)
    chosen = list(dict.fromkeys(what or [What.PREDICTIONS]))
    names = {each: f"explain_{each.value}.{file_format.value}" for each in chosen if each is not What.PROJECTOR}
    figures_folder = run_folder.figures if out is None else out
    output_files = [figures_folder / name for name in names.values()]
    if What.PROJECTOR in chosen:
        output_files.append(run_folder.projector_config)
    if not force and (existing := [path for path in output_files if path.exists()]):
        raise ConfigError("", existing[0], "already exists: --force overwrites it")
    require_writable_folder(output_files[0], option="--out")
    # Imported late, because they import torch, which takes seconds: the errors above appear at once.
    from digitlab.explain.network import read_explained_run
    from digitlab.figures.style import encode

    run = read_explained_run(run_folder)
    target = None if class_name is None else _class_index(run, class_name)
    needs_images = What.PREDICTIONS in chosen or What.LAYERS in chosen
    subjects = _subjects(run, images or [], count=count) if needs_images else None
    for each in chosen:
        if each is What.PROJECTOR:
            _write_projector(run, points=points)
            continue
        path = figures_folder / names[each]
        figure = _draw(run, each, subjects, target=target, points=points)
        write_atomically(path, encode(figure, file_format.value))
        print(path)


def _class_index(run: "ExplainedRun", name: str) -> int:
    from digitlab.config.suggestions import not_one_of

    if name not in run.class_names:
        raise not_one_of("--class", name, run.class_names)
    return run.class_names.index(name)


def _subjects(run: "ExplainedRun", images: list[Path], *, count: int) -> "Subjects":
    """Return the user's own images, prepared as ``digitlab predict`` does, or the most confident mistakes."""
    from digitlab.api.inputs import as_pixels
    from digitlab.cli.predict import picture_files
    from digitlab.core.files import path_text
    from digitlab.explain.predictions import Subjects, confident_mistakes

    if not images:
        return confident_mistakes(run, count=count)
    paths = picture_files(images)
    pixels = as_pixels(paths, facts=run.classifier.facts, deskewed=run.folder.read_deskew())
    return Subjects(pixels=pixels, names=[path_text(path) for path in paths])


def _draw(run: "ExplainedRun", what: What, subjects: "Subjects | None", *, target: int | None, points: int) -> "Figure":
    """Return the figure of one explanation, and print the table that belongs to it, if it has one.

    ``subjects`` are the images to explain, and ``target`` is the index of the class that ``--class`` chooses.
    """
    from digitlab.explain import learned, predictions
    from digitlab.results.table import print_table

    if what is What.CLASSES:
        return learned.classes_figure(run)
    if what is What.EMBEDDING:
        return learned.points_figure(run, most=points)
    assert subjects is not None  # predictions and layers have images
    if what is What.LAYERS:
        return learned.layers_figure(run, subjects.pixels[0])
    explanation = predictions.explain(run, subjects, target=target)
    columns = ["image", "predicted", "confidence", "true class", "nearest training images"]
    words = [name for name in columns if name != "confidence"]
    print_table(columns, predictions.lines(run, explanation), words=words, title=run.title)
    return predictions.figure(run, explanation)


def _write_projector(run: "ExplainedRun", *, points: int) -> None:
    from digitlab.explain.embedding import embed
    from digitlab.explain.projector import most_points, write_projector_files

    # TensorBoard shows all images of the projector as parts of one picture, which can hold only so many.
    most = min(points, most_points(run.image_shape[1:]))
    print(write_projector_files(run, embed(run, most=most))[-1])
