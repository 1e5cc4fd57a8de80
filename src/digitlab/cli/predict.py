"""``digitlab predict``: classify the user's own pictures."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from digitlab.cli.app import CheckpointOption, Folder, app
from digitlab.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torch import Tensor

    from digitlab.training import Classifier

_BATCH_SIZE = 256


@app.command()
def predict(
    folder: Folder,
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE…", readable=False, help="Pictures of any format, size and polarity, or folders of pictures."
        ),
    ],
    checkpoint: CheckpointOption = "best",
    csv: Annotated[
        bool, typer.Option("--csv", help="Print CSV: file, class, confidence, then one column per class.")
    ] = False,
) -> None:
    """Classify your own pictures. If one cannot be read, print the reason on stderr and exit with 1 at the end.

    A folder stands for the pictures directly in it, sorted by name.
    """
    from digitlab.results.run_hints import open_run

    if csv and (tables := [path for path in images if path.suffix == ".csv" and not path.exists()]):
        raise ConfigError("--csv", tables[0], f"the option takes no file; write into one with > {tables[0]}")
    _refuse_other_order(folder, images)
    run = open_run(folder)
    # Imported late, because they import torch, which takes seconds: the errors above appear at once.
    from digitlab.api.inputs import as_pixels
    from digitlab.results.table import print_table
    from digitlab.training.loading import load_classifier

    classifier = load_classifier(run, checkpoint)
    # Pictures must become like the images of the run's data set: in shape, and upright if the run made its digits so.
    facts, deskewed = classifier.facts, run.read_deskew()
    readable: dict[Path, Tensor] = {}  # a picture that is given twice is classified once
    paths = picture_files(images)
    for path in paths:
        try:
            readable[path] = as_pixels(path, facts=facts, deskewed=deskewed)[0]
        except DataError as error:
            print(error, file=sys.stderr)
    if readable:
        scores = _scores(classifier, readable)
        if csv:
            _print_csv(list(readable), scores, facts.class_names)
        else:
            columns = ["file", "class", "confidence", "runner-up", "confidence"]
            rows = _rankings(list(readable), scores, facts.class_names)
            print_table(columns, rows, words=("file", "class", "runner-up"))
    if len(readable) < len(set(paths)):
        sys.exit(1)


def _refuse_other_order(folder: Path, images: Sequence[Path]) -> None:
    """Raise ``ConfigError`` if the run folder comes after the pictures."""
    last = images[-1]
    if not folder.is_dir() and (last / ".hydra").is_dir():
        words = " ".join(map(str, (last, folder, *images[:-1])))
        raise ConfigError("RUN_FOLDER", folder, f"the run folder comes first: write digitlab predict {words}")


def picture_files(paths: Sequence[Path]) -> list[Path]:
    """Replace each folder by the files in it whose extension is that of a picture, sorted by name.

    Raises ``ConfigError`` if a folder contains no picture.
    """
    from digitlab.data.own_images import picture_extensions

    extensions = picture_extensions()
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        pictures = sorted(each for each in path.iterdir() if each.is_file() and each.suffix.lower() in extensions)
        if not pictures:
            inner = next((each.parent for each in path.glob("*/*") if each.suffix.lower() in extensions), None)
            hint = "" if inner is None else f", but folders such as {inner} do: give these"
            raise ConfigError("IMAGE", path, f"this folder contains no picture{hint}")
        files += pictures
    return files


def _scores(classifier: "Classifier", images: "dict[Path, Tensor]") -> "Tensor":
    """Return the confidences (N, K) of the images, a batch at a time."""
    import torch

    with torch.no_grad():
        batches = torch.stack(list(images.values())).split(_BATCH_SIZE)
        return torch.cat([classifier.loss.scores(classifier(batch)) for batch in batches])


def _rankings(paths: Sequence[Path], scores: "Tensor", class_names: Sequence[str]) -> list[list[str]]:
    """Return one row per picture: its path, and the two classes with the highest confidences."""
    from digitlab.core.files import path_text
    from digitlab.figures.formatting import format_confidence

    values, indices = scores.topk(2, dim=1)
    return [
        [path_text(path), class_names[first], format_confidence(high), class_names[second], format_confidence(low)]
        for path, (high, low), (first, second) in zip(paths, values.tolist(), indices.tolist(), strict=True)
    ]


def _print_csv(paths: Sequence[Path], scores: "Tensor", class_names: Sequence[str]) -> None:
    import csv

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["file", "class", "confidence", *class_names])
    confidences, predicted = scores.max(1)
    for path, index, confidence, row in zip(
        paths, predicted.tolist(), confidences.tolist(), scores.tolist(), strict=True
    ):
        writer.writerow([path, class_names[index], f"{confidence:.6g}", *(f"{value:.6g}" for value in row)])
