"""``digitlab evaluate``: tests a checkpoint on an official test set, on corrupted, or on out-of-distribution images."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from digitlab.cli.app import (
    CheckpointOption,
    Device,
    FileFormat,
    Folder,
    PaperWidth,
    WidthOption,
    app,
    refuse_without_effect,
)
from digitlab.core.errors import ConfigError, RunError
from digitlab.results.checkpoint_name import CheckpointName

if TYPE_CHECKING:
    from digitlab.data import ImageData
    from digitlab.results.folder import RunFolder
    from digitlab.training import Classifier

_EXAMPLES = 3  # example images per severity in the figure


@app.command()
def evaluate(
    folder: Folder,
    data: Annotated[
        str | None, typer.Option(metavar="NAME", help="Another data set of conf/data/, same shape.")
    ] = None,
    checkpoint: CheckpointOption = "best",
    device: Annotated[Device, typer.Option(help="Where to compute; independent of the training device.")] = Device.AUTO,
    corrupt: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="Test on corrupted images: noise, blur, stretch, pen, rotate, shift, occlude or invert. "
            "Without --severity, also draw a figure, RUN_FOLDER/figures/corrupt_KIND_DATA.",
        ),
    ] = None,
    severity: Annotated[
        int | None, typer.Option(metavar="1..5", help="Test only this severity.  [default: all]")
    ] = None,
    out_of_distribution: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Compare the confidence on out-of-distribution images: fashion_mnist, cifar10, mnist or noise.",
        ),
    ] = None,
    file_format: Annotated[FileFormat, typer.Option("--format", help="File format of that figure.")] = FileFormat.PNG,
    width: WidthOption = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing figure.")] = False,
) -> None:
    """Test a run's checkpoint on the whole official test set, on corrupted or on out-of-distribution images."""
    from digitlab.results.run_hints import open_run

    if severity is not None and corrupt is None:
        raise ConfigError("--severity", severity, "needs --corrupt")
    if corrupt is None or severity is not None:
        _refuse_figure_options(file_format, width, force=force)
    if data is not None and "=" in data:
        raise ConfigError("--data", data, f"must be a name: write --data {data.rpartition('=')[2]}")
    run = open_run(folder)
    # Imported late, because they import torch, which takes seconds: the errors above appear at once.
    from digitlab.core.logging import quiet_libraries
    from digitlab.training.loading import load_classifier, load_data, require_fit

    classifier = load_classifier(run, checkpoint)
    images = load_data(run, data)
    require_fit(classifier, images)
    if data is None and classifier.facts.name != images.source.name:
        raise RunError(
            f"{run.checkpoint(checkpoint)}: was trained on {classifier.facts.name}, but the run's configuration says"
            f" {images.source.name}: use --data {classifier.facts.name} to test it on its own data set"
        )
    _warn_of_other_classes(classifier, images)
    # This comes before the tests, so that a wrong name is reported at once. None stands for noise, too.
    other_images = None if out_of_distribution is None else _out_of_distribution_data(run, images, out_of_distribution)
    with quiet_libraries():
        if corrupt is not None:
            accuracies = _report_corrupted(classifier, images, kind=corrupt, severity=severity, device=device)
            path = run.figures / f"corrupt_{corrupt}_{images.source.name}.{file_format.value}"
            if severity is None and path.exists() and not force:
                print(f"{path}: already exists; --force overwrites it", file=sys.stderr)
            elif severity is None:
                _draw(path, accuracies, images, kind=corrupt, width=width)
        if out_of_distribution is not None:
            _report_out_of_distribution(classifier, images, other_images, device=device)
        if corrupt is None and out_of_distribution is None:
            _report_test(classifier, images, checkpoint=checkpoint, device=device)


def _refuse_figure_options(file_format: FileFormat, width: PaperWidth | None, *, force: bool) -> None:
    given = {"format": file_format is not FileFormat.PNG, "width": width is not None, "force": force}
    refuse_without_effect("only --corrupt without --severity draws a figure", **given)


def _warn_of_other_classes(classifier: "Classifier", images: "ImageData") -> None:
    """Print a line to stderr if the network was trained on other classes than those of ``images``."""
    if classifier.facts.class_names != list(images.source.class_names):
        print(
            f"the classes of {images.source.title} are not those of {classifier.facts.title}: metrics compare their"
            f" numbers only; --out-of-distribution {images.source.name} shows how sure the network is of such images",
            file=sys.stderr,
        )


def _report_test(classifier: "Classifier", images: "ImageData", *, checkpoint: CheckpointName, device: Device) -> None:
    from digitlab.results.table import print_metrics
    from digitlab.training.evaluation import evaluate as measure

    metrics = measure(classifier, images, accelerator=device.value)
    print_metrics(metrics, title=f"{images.source.title}, {checkpoint} checkpoint, on {classifier.device.type}")


def _report_corrupted(
    classifier: "Classifier", images: "ImageData", *, kind: str, severity: int | None, device: Device
) -> dict[int, float]:
    """Print the metrics at ``severity``, or at all severities if it is None. Return the accuracy in [0, 1] at each."""
    from digitlab.data.corrupt import corruptions
    from digitlab.results.table import print_table
    from digitlab.training.robustness import measure_corrupted

    metrics = measure_corrupted(classifier, images, corruptions(kind, severity), accelerator=device.value)
    names = ("accuracy", "f1", "loss", "calibration_error")
    rows = [[str(level), *(f"{values[f'test/{name}']:.4f}" for name in names)] for level, values in metrics.items()]
    print_table(["severity", *names], rows, title=f"{images.source.title}, {kind}", words=0)
    return {level: values["test/accuracy"] for level, values in metrics.items()}


def _draw(
    path: Path, accuracies: dict[int, float], images: "ImageData", *, kind: str, width: PaperWidth | None
) -> None:
    """Write a figure of the accuracy at each severity with example images, and print its path."""
    import torch

    from digitlab.core.files import write_atomically
    from digitlab.data.corrupt import corruptions
    from digitlab.figures.robustness import severity_figure
    from digitlab.figures.style import encode, figure_width
    from digitlab.training.robustness import corrupted_images

    shown = images.test_set.images[:_EXAMPLES].cpu()
    examples = torch.stack([corrupted_images(shown, each) for each in corruptions(kind).values()])
    with figure_width(None if width is None else width.value):
        figure = severity_figure(accuracies, examples, title=f"{images.source.title}, {kind}")
        write_atomically(path, encode(figure, FileFormat(path.suffix[1:]).value))
    print(path)


def _out_of_distribution_data(run: "RunFolder", images: "ImageData", name: str) -> "ImageData | None":
    """Return the data set ``name``; None for ``noise``, which is generated later. ``images`` is the tested data set."""
    from digitlab.training.loading import load_data

    if name == images.source.name:
        raise ConfigError("--out-of-distribution", name, "is the data set on which the network is tested")
    try:
        return None if name == "noise" else load_data(run, name)
    except ConfigError as error:
        raise ConfigError("--out-of-distribution", name, f"must be noise or a data set: {error.allowed}") from error


def _report_out_of_distribution(
    classifier: "Classifier", images: "ImageData", other_images: "ImageData | None", *, device: Device
) -> None:
    """Print the confidence in the test images of both data sets, and how well it distinguishes the two (AUROC).

    If ``other_images`` is None, images of uniform noise take their place.
    """
    from digitlab.results.table import print_table
    from digitlab.training.robustness import out_of_distribution

    measured = out_of_distribution(classifier, images, other_images, accelerator=device.value)
    titles = (images.source.title, "uniform noise" if other_images is None else other_images.source.title)
    rows = [
        [
            title, str(len(confidences)), f"{confidences.mean():.4f}", f"{confidences.median():.4f}",
            f"{(confidences >= 0.9).double().mean():.4f}",
        ]
        for title, confidences in zip(titles, (measured.in_distribution, measured.out_of_distribution), strict=True)
    ]  # fmt: skip
    print_table(["test images", "count", "mean confidence", "median confidence", "confidence >= 0.9"], rows)
    print(f"AUROC of the confidence, {titles[0]} against {titles[1]}: {measured.auroc:.4f}")
