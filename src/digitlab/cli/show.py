"""``digitlab show``: look at a data set before training."""

from typing import TYPE_CHECKING, Annotated

import typer

from digitlab.cli.app import app
from digitlab.core.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from digitlab.data import ImageData


@app.command()
def show(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="OVERRIDES…", help="As for training: data=cifar10 augment=[shift,flip]."),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Look for copies, overlap of training and test set, broken images and wrong labels instead. This "
            "trains small networks for a minute or two; model=, optimizer=, … choose other ones.",
        ),
    ] = False,
) -> None:
    """Show a data set before training: its split, its mean and standard deviation, and some images of every class.

    With --check, examine its images and labels, print a table, and write a contact sheet and a list of findings.
    """
    from digitlab.config.command_line import read_arguments
    from digitlab.config.compose import ROOT, compose
    from digitlab.config.overrides import split_override

    overrides = read_arguments(overrides or [])
    config = compose(overrides)
    for override in overrides:
        key, value = split_override(override)
        if not check and key.partition(".")[0] not in ("data", "augment", "seed", "experiment", "hydra"):
            raise ConfigError(key, value, "has no effect: this command uses only data, augment, seed and experiment")
    # Imported late, because they import torch, which takes seconds: the errors above appear at once.
    from digitlab.core.files import write_atomically
    from digitlab.figures.samples import first_of_each_class, sample_grid
    from digitlab.figures.style import encode
    from digitlab.training.experiment import Experiment

    data = Experiment.from_config(config, typed=overrides).data
    data.prepare_data()
    data.setup()
    if check:
        from digitlab.cli.show_check import check as check_data

        check_data(data, overrides, folder=ROOT / "outputs" / "show")
        return
    _print_split(data)
    source, labels = data.source, data.train_set.labels[data.train_indices]
    chosen = data.train_indices[first_of_each_class(labels, classes=len(source.class_names), count=10)]
    images, labels = data.train_set.images[chosen], data.train_set.labels[chosen]
    # The images and the title of each picture, by the suffix of its file name.
    pictures = {"": (images, source.title)}
    if len(data.augment):
        names = ", ".join(type(each).__name__ for each in data.augment.augmentations)
        pictures["_augmented"] = (
            _augmented(data, images, labels, seed=config.seed),
            f"{source.title}, augmented: {names}",
        )
    for suffix, (shown, title) in pictures.items():
        path = ROOT / "outputs" / "show" / f"{source.name}{suffix}.png"
        write_atomically(path, encode(sample_grid(shown, labels, class_names=source.class_names, title=title)))
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
    for name, values in zip(("mean", "std"), data.pixel_statistics(), strict=True):
        print(
            f"{name} of each channel of the training split, in [0, 1]: {', '.join(f'{value:.4f}' for value in values)}"
        )
    print(f"split: {data.split_fingerprint}")


def _augmented(data: "ImageData", images: "Tensor", labels: "Tensor", *, seed: int) -> "Tensor":
    """Return images, uint8 (N, C, H, W), as the augmentation of the run changes them, float in [0, 1]."""
    import torch

    from digitlab.data.seeding import stream_seed

    generator = torch.Generator().manual_seed(stream_seed("show", seed))
    classes = len(data.source.class_names)
    return data.augment(images.float() / 255, labels, classes=classes, generator=generator)[0]
