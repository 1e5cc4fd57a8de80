"""The pictures of a run's report, which need its checkpoint and its data: mistakes, weights, calibration."""

from digitlab.core.errors import DigitlabError
from digitlab.figures.gallery import FIGURES, NotApplicableError
from digitlab.figures.run_data import read_run_data
from digitlab.figures.style import png
from digitlab.report.page import Picture
from digitlab.report.records import ReportedRun

# Under each title the pictures that may show it, of which those that apply to the run are taken.
_SHOWN = {
    "The most confident mistakes": ("images_mistakes",),
    "The pairs most often confused": ("confused_pairs",),
    "Weights": ("weights_outputs", "weights_units", "weights_filters"),
    "Accuracy against confidence": ("reliability",),
}


def pictures_of(record: ReportedRun) -> tuple[list[Picture], list[str]]:
    """The pictures, and a line for each that can't be made: it does not apply, or the run's data are not here."""
    try:
        run_data = read_run_data(record.folder)
    except DigitlabError as error:
        return [], [f"pictures: {error}"]
    pictures, left_out = [], []
    for title, names in _SHOWN.items():
        reasons = []
        for name in names:
            try:
                figure = FIGURES[name](run_data)
            except NotApplicableError as reason:
                reasons.append(str(reason))
            else:
                pictures.append(Picture(title, f"{title}: {run_data.title}", png(figure)))
        if len(reasons) == len(names):
            left_out.append(f"{title.lower()}: {'; '.join(reasons)}")
    return pictures + _robustness(record), left_out


def _robustness(record: ReportedRun) -> list[Picture]:
    """What ``digitlab evaluate --corrupt`` has left in the run's folder."""
    return [
        Picture("Harder images", f"accuracy against the severity of a corruption, {path.stem}", path.read_bytes())
        for path in sorted(record.folder.figures.glob("corrupt_*.png"))
    ]
