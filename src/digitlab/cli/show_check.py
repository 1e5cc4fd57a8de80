"""The checks of ``digitlab show --check``: prints a table, and writes a contact sheet and a list of all findings.

The contact sheet is a picture with the first findings of each kind.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from digitlab.cli.app import print_progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from digitlab.data import ImageData
    from digitlab.explain.data_check import DataCheck, Finding
    from digitlab.figures.data_check import SheetImage

_SHOWN = 20  # images of each finding on the contact sheet


def check(data: "ImageData", overrides: Sequence[str], *, folder: Path) -> None:
    """Check the data set that ``overrides`` choose; ``data`` is set up. Progress goes to stderr."""
    from digitlab.core.files import write_atomically
    from digitlab.explain import data_check
    from digitlab.explain.label_errors import FOLDS, held_out_scores
    from digitlab.figures.style import encode
    from digitlab.results.table import print_table

    source = data.source
    # Labels are checked with networks that did not see the image, so this needs folds. A data set with its own
    # validation images can't be divided into folds.
    held_out = None
    if source.val_count is None:
        held_out = held_out_scores(overrides, image_shape=source.image_shape, progress=print_progress)
    checked = data_check.check_images(
        data.train_set, data.test_set, pictures=source.margin_pixels is None, held_out=held_out,
        progress=print_progress,
    )  # fmt: skip
    print_table(["check", "train", "test"], data_check.table(checked), title=f"{source.title}, both official sets")
    if held_out is None:
        print("labels are not checked: this needs folds, and a data set with its own validation images has none")
    else:
        epochs = f"{held_out.epochs} epoch{'s' * (held_out.epochs != 1)}"
        print(
            f"Labels are checked with {FOLDS} networks ({held_out.model}, {epochs}); each"
            " predicts the third of the training images that it did not see. Together they predict"
            f" {100 * held_out.accuracy:.1f} % of the training labels. With better networks, fewer correct labels are"
            " on the list."
        )
        if checked.doubted != checked.count(data_check.LABEL):
            in_train, in_test = checked.doubted
            print(
                f"The networks doubt {in_train:,} training and {in_test:,} test labels. Only the most doubtful ones are"
                " on the list: at most 1 % of the images of a set, or 100 in a small set."
            )
    for name, content in (
        (f"{source.name}_check.csv", data_check.as_csv(checked, source.class_names).encode()),
        (f"{source.name}_check.png", encode(_sheet(checked, data))),
    ):
        write_atomically(folder / name, content)
        print(folder / name)


def _sheet(checked: "DataCheck", data: "ImageData") -> "Figure":
    from digitlab.figures.data_check import check_figure

    kinds = dict.fromkeys(finding.kind for finding in checked.findings)
    sections = []
    for kind in kinds:
        findings = [finding for finding in checked.findings if finding.kind == kind]
        tiles = [tile for finding in findings for tile in _tiles(checked, data, finding)]
        sections.append(tiles[:_SHOWN])
    if not sections:
        sections = [[_tile(checked, data, 0, "nothing found")]]
    title = (
        f"{data.source.title}: the first findings of each kind. Copies stand side by side. Images with a doubtful "
        "label have a frame"
    )
    return check_figure(sections, title=title)


def _tiles(checked: "DataCheck", data: "ImageData", finding: "Finding") -> list["SheetImage"]:
    """Return the image of the finding; if it is a copy, the image that it copies comes first."""
    from digitlab.explain.data_check import LABEL

    tile = _tile(checked, data, finding.number, finding.kind, suggested=finding.suggested)
    if finding.other is None or finding.kind == LABEL:
        return [tile]
    return [_tile(checked, data, finding.other, finding.kind), tile]


def _tile(
    checked: "DataCheck", data: "ImageData", number: int, kind: str, *, suggested: int | None = None
) -> "SheetImage":
    """Return an image with the lines below it: kind of the finding, place in the data set, and label.

    ``number`` counts the training images and then the test images. ``suggested`` is the class that a doubtful label
    should rather have.
    """
    from digitlab.figures.data_check import SheetImage

    part, position = checked.place(number)
    images = data.train_set if part == "train" else data.test_set
    names = data.source.class_names
    label = names[int(checked.labels[number])]
    # A digit alone would not be understood as a label.
    lines = [kind.removeprefix("images with a "), f"{part} {position}", f"label {label}" if label.isdigit() else label]
    if suggested is not None:
        lines[0], lines[2] = f"label {label}", f"rather {names[suggested]}"
    return SheetImage(images.images[position].cpu(), lines, marked=suggested is not None)
