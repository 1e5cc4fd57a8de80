"""``digitlab evaluate``: a run's checkpoint on a whole official test set."""

from typing import Annotated

import typer

from digitlab.cli.app import Device, Folder, Which, WhichOption, app


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
