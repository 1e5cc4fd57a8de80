"""``digitlab predict``: classify the user's own pictures."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from digitlab.cli.app import Folder, Which, WhichOption, app
from digitlab.core.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from digitlab.training import Classifier


@app.command()
def predict(
    folder: Folder,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE…", help="Pictures of any format, size and polarity.")],
    checkpoint: WhichOption = Which.BEST,
) -> None:
    """Classify your own pictures. If one cannot be read, print the reason on stderr and exit with 1 at the end."""
    from digitlab.data.deskew import deskew
    from digitlab.data.own_images import read_own_image
    from digitlab.results.table import print_table
    from digitlab.training.loading import load_classifier, open_run

    run = open_run(folder)
    classifier = load_classifier(run, checkpoint.value)
    deskewed = run.read_config().data.get("deskew", False)
    facts = classifier.facts
    channels, height, width = facts.image_shape
    readable: dict[Path, Tensor] = {}
    for path in images:
        try:
            shape = (channels, height, width)
            image = read_own_image(path, image_shape=shape, margin_pixels=facts.margin_pixels)
            readable[path] = deskew(image[None])[0] if deskewed else image
        except DataError as error:
            print(error, file=sys.stderr)
    if readable:
        print_table(
            ["file", "class", "confidence", "runner-up", "confidence"], _rankings(classifier, readable), words=2
        )
    if len(readable) < len(set(images)):
        sys.exit(1)


def _rankings(classifier: "Classifier", images: "dict[Path, Tensor]") -> list[list[str]]:
    import torch

    with torch.no_grad():
        scores = classifier.loss.scores(classifier(torch.stack(list(images.values()))))
    names = classifier.facts.class_names
    tops = zip(images, *scores.topk(2, dim=1), strict=True)
    return [
        [str(path), names[first], f"{high:.1%}", names[second], f"{low:.1%}"]
        for path, (high, low), (first, second) in (
            (path, values.tolist(), index.tolist()) for path, values, index in tops
        )
    ]
