"""The figures on the page of a run that need its checkpoint and its data: mistakes, weights, calibration."""

from collections.abc import Callable

from digitlab.core.errors import DigitlabError
from digitlab.figures.gallery import FIGURES, NotApplicableError
from digitlab.figures.run_data import read_run_data
from digitlab.figures.style import encode
from digitlab.report.page import Picture
from digitlab.report.records import ReportedRun

# The figures that can appear under each heading. The page contains those that apply to the run.
_FIGURES_BY_HEADING = {
    "The most confident mistakes": ("images_mistakes",),
    "The pairs most often confused": ("confused_pairs",),
    "Weights": ("weights_outputs", "weights_units", "weights_filters"),
    "Accuracy against confidence": ("reliability",),
}


def pictures_of(record: ReportedRun, *, progress: Callable[[str], None]) -> tuple[list[Picture], list[str]]:
    """Draw the figures, and return them with a message for each heading that has none.

    If the data of the run cannot be read, return no figure and one message.
    """
    progress("reading the checkpoint and the data")
    try:
        run_data = read_run_data(record.folder)
    except DigitlabError as error:
        return [], [f"pictures: {error}"]
    pictures, skipped = [], []
    for title, names in _FIGURES_BY_HEADING.items():
        progress(f"drawing: {title.lower()}")
        reasons = []
        for name in names:
            try:
                figure = FIGURES[name](run_data)
            except NotApplicableError as reason:
                reasons.append(str(reason))
            else:
                pictures.append(Picture(title, f"{title}: {run_data.title}", encode(figure)))
        if len(reasons) == len(names):
            skipped.append(f"{title.lower()}: {'; '.join(reasons)}")
    return pictures + _corruption_pictures(record), skipped


def _corruption_pictures(record: ReportedRun) -> list[Picture]:
    """Read the figures that ``digitlab evaluate --corrupt`` has written into the run's folder."""
    return [
        Picture("Corrupted images", f"accuracy against the severity of a corruption, {path.stem}", path.read_bytes())
        for path in sorted(record.folder.figures.glob("corrupt_*.png"))
    ]
