"""The ``digitlab`` command: what one does before training (``show``) and with finished runs.

    digitlab show data=cifar10 augment=[shift,flip]
    digitlab runs --sort val/accuracy
    digitlab evaluate RUN_FOLDER
    digitlab predict RUN_FOLDER image.png

Torch is imported by the commands that need it alone, so that ``--help`` and ``runs`` answer at once.
"""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from digitlab.schema import ConfigError, DataError, DigitlabError

if TYPE_CHECKING:
    from torch import Tensor

    from digitlab.data import ImageData
    from digitlab.training import Classifier

app = typer.Typer(
    help="What one does before training (show) and with finished runs.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
)  # fmt: skip


class Which(StrEnum):
    """The checkpoints of a run."""

    BEST = "best"
    LAST = "last"


class Device(StrEnum):
    """Where to compute; ``auto`` is CUDA where there is one, else Apple's GPU, else the CPU."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


Folder = Annotated[Path, typer.Argument(metavar="RUN_FOLDER", help="The folder that the run's last line named.")]
WhichOption = Annotated[Which, typer.Option("--checkpoint", help="The best checkpoint by validation, or the last.")]


def main() -> None:
    """The way in: what a user can put right is one line on stderr, without a traceback."""
    try:
        app()
    except DigitlabError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


@app.command()
def evaluate(
    folder: Folder,
    data: Annotated[str | None, typer.Option(metavar="NAME", help="Another data set of conf/data/ that fits.")] = None,
    checkpoint: WhichOption = Which.BEST,
    device: Annotated[Device, typer.Option(help="Whatever the run was trained on.")] = Device.AUTO,
) -> None:
    """Test a run's checkpoint on the whole official test set. Nothing is written."""
    from digitlab.results.loading import load_classifier, load_data, open_run, require_fit
    from digitlab.results.table import print_metrics
    from digitlab.training.surroundings import quiet_libraries
    from digitlab.training.testing import evaluate as measure

    run = open_run(folder)
    classifier = load_classifier(run, checkpoint.value)
    images = load_data(run, data)
    require_fit(classifier, images)
    with quiet_libraries():
        metrics = measure(classifier, images, accelerator=device.value)
    print_metrics(metrics, title=f"{images.source.title}, {checkpoint.value} checkpoint, on {classifier.device.type}")


@app.command()
def runs(
    root: Annotated[Path | None, typer.Option(help="Where to look for run folders.  [default: outputs]")] = None,
    sort: Annotated[str | None, typer.Option(metavar="METRIC", help="Best first, e.g. test/accuracy.")] = None,
    csv: Annotated[bool, typer.Option("--csv", help="All metrics, unrounded, for other programs.")] = False,
) -> None:
    """List all runs, the oldest first. A folder that can't be read is named on stderr."""
    from digitlab.config import ROOT
    from digitlab.results.folder import find_runs
    from digitlab.results.table import Row, print_runs, run_row, runs_csv, sort_rows

    root = ROOT / "outputs" if root is None else root
    if not root.is_dir():
        raise ConfigError("--root", root, "there is no such folder")
    rows: list[Row] = []
    for run in find_runs(root):
        try:
            rows.append(run_row(run))
        except (OSError, ValueError) as error:
            print(f"{run.path}: can't be read: {error}", file=sys.stderr)
    if not rows:
        print(f"no runs under {root}", file=sys.stderr)
        return
    if sort is not None:
        rows = sort_rows(rows, sort)
    if csv:
        print(runs_csv(rows), end="")
    else:
        print_runs(rows, metric=sort)


@app.command()
def show(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="OVERRIDES…", help="As for train.py: data=cifar10 augment=[shift,flip]."),
    ] = None,
) -> None:
    """Show a data set before training: its split, its mean and deviation, and some images of every class."""
    from digitlab.config import ROOT, compose
    from digitlab.figures.samples import first_of_each_class, sample_grid
    from digitlab.training.experiment import Experiment

    config = compose(overrides or [])
    data = Experiment.from_config(config, typed=overrides or []).data
    data.normalize = "standard"  # the mean and deviation of the images, whatever the run makes of them
    data.prepare_data()
    data.setup()
    _print_split(data)
    source, labels = data.source, data.train_set.labels[data.train_indices]
    chosen = data.train_indices[first_of_each_class(labels, classes=len(source.class_names), count=10)]
    images, labels = data.train_set.images[chosen], data.train_set.labels[chosen]
    pictures = {"": (images, source.title)}
    if len(data.augment):
        names = ", ".join(type(each).__name__ for each in data.augment.augmentations)
        pictures["_augmented"] = (
            _augmented(data, images, labels, seed=config.seed),
            f"{source.title}, augmented: {names}",
        )
    for suffix, (shown, title) in pictures.items():
        path = ROOT / "outputs" / "show" / f"{source.name}{suffix}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        sample_grid(shown, labels, class_names=source.class_names, title=title).savefig(path)
        print(path)


def _print_split(data: "ImageData") -> None:
    from digitlab.results.table import print_table

    source = data.source
    train, test = data.train_set.labels, data.test_set.labels
    splits = {"train": train[data.train_indices], "val": train[data.val_indices], "test": test}
    counts = [labels.bincount(minlength=len(source.class_names)).tolist() for labels in splits.values()]
    rows = [[name, *map(str, row)] for name, row in zip(source.class_names, zip(*counts, strict=True), strict=True)]
    rows.append(["all", *(str(len(labels)) for labels in splits.values())])
    shape = " × ".join(map(str, source.image_shape))
    print_table(["class", *splits], rows, title=f"{source.title}, images of {shape}")
    for name, values in (("mean", data.mean), ("std", data.std)):
        print(
            f"{name} of each channel of the training split, in [0, 1]: {', '.join(f'{value:.4f}' for value in values)}"
        )
    print(f"split: {data.split_fingerprint}")


def _augmented(data: "ImageData", images: "Tensor", labels: "Tensor", *, seed: int) -> "Tensor":
    import torch

    from digitlab.data.seeding import stream_seed

    generator = torch.Generator().manual_seed(stream_seed("show", seed))
    classes = len(data.source.class_names)
    return data.augment(images.float() / 255, labels, classes=classes, generator=generator)[0]


@app.command()
def predict(
    folder: Folder,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE…", help="Pictures of any format, size and polarity.")],
    checkpoint: WhichOption = Which.BEST,
) -> None:
    """Classify pictures of one's own. One that can't be read is named on stderr, and the exit code is 1."""
    from digitlab.data.own_images import read_own_image
    from digitlab.results.loading import load_classifier, open_run
    from digitlab.results.table import print_table

    classifier = load_classifier(open_run(folder), checkpoint.value)
    facts = classifier.facts
    channels, height, width = facts.image_shape
    readable: dict[Path, Tensor] = {}
    for path in images:
        try:
            shape = (channels, height, width)
            readable[path] = read_own_image(path, image_shape=shape, margin_pixels=facts.margin_pixels)
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
