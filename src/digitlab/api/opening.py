"""The functions with which Python users open runs that have ended: ``load``, ``runs``, ``open`` and ``compare_runs``.

A mistake raises ``ConfigError`` with the text that the command prints.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from digitlab.api.arguments import explain_unknown_arguments, given_path, options_as_arguments
from digitlab.api.frames import to_frame
from digitlab.api.run import Run
from digitlab.api.sweep import Sweep
from digitlab.config.compose import ROOT
from digitlab.core.errors import ConfigError
from digitlab.results.checkpoint_name import CheckpointName
from digitlab.results.folder import RunFolder, find_runs
from digitlab.results.outcome import unreadable_reason
from digitlab.results.run_hints import require_folder
from digitlab.results.table import Row, run_row
from digitlab.sweeps.manifest import manifest_file

if TYPE_CHECKING:
    from digitlab.api.comparisons import Comparisons
    from digitlab.data import ImageData
    from digitlab.training import Classifier


@explain_unknown_arguments("digitlab.load")
def load(
    folder: str | Path, *, checkpoint: CheckpointName = "best", model: Any = None
) -> "tuple[Classifier, ImageData]":
    """Return the classifier of a run, in eval mode, and its data set with the run's split, both on the CPU.

    ``classifier(images)`` takes uint8 images (N, C, H, W), such as ``data.test_set.images``, and returns logits (N, K).
    ``model`` is as in ``resume``. Raises ``ConfigError`` if ``folder`` is not a run folder, ``RunError`` for a missing
    or damaged checkpoint, and ``DataError`` if the data set can't be obtained.
    """
    from digitlab.training.loading import load as load_folder

    path = given_path(folder)
    if model is not None:
        remember_network(path, model)
    with options_as_arguments():
        return load_folder(path, checkpoint=checkpoint)


@explain_unknown_arguments("digitlab.runs")
def runs(root: str | Path | None = None) -> Any:
    """Return all runs under ``root`` (by default ``outputs/``), the oldest first: a data frame or a list of dicts.

    A folder that cannot be read has the status ``unreadable``, and the reason as its ``error``. Raises ``ConfigError``
    if ``root`` is not a folder.
    """
    path = ROOT / "outputs" if root is None else require_folder(given_path(root, "root"), "root")
    rows: list[Row] = []

    def add_unreadable(error: OSError) -> None:
        rows.append({"status": "unreadable", "error": unreadable_reason(error), "folder": str(error.filename)})

    for run in find_runs(path, unreadable=add_unreadable if path.exists() else None):
        try:
            rows.append(run_row(run))
        except (OSError, ValueError) as error:
            rows.append({"status": "unreadable", "error": unreadable_reason(error), "folder": str(run.path)})
    return to_frame(rows)


@explain_unknown_arguments("digitlab.open")
def open_folder(folder: str | Path, *, model: Any = None) -> Run | Sweep:
    """Return the run or the sweep in ``folder``; ``model`` is as in ``resume``; for a sweep, all its runs get it.

    Raises ``ConfigError`` if the folder is neither.
    """
    path = given_path(folder)
    opened = Sweep(path) if manifest_file(path).exists() else Run(path)
    if model is not None:
        for run in opened.runs if isinstance(opened, Sweep) else [opened]:
            remember_network(run.path, model)
    return opened


@explain_unknown_arguments("digitlab.compare_runs")
def compare_runs(
    *runs: Run | Sweep | str | Path,
    key: str | None = None,
    metric: str | None = None,
    where: Sequence[str] | Mapping[str, Any] = (),
) -> "Comparisons":
    """Compare groups of finished runs with statistics, as ``digitlab compare`` does.

    ``runs`` are runs, sweeps, or folders that contain runs: one group each. With ``key``, for example
    ``"optimizer.lr"``, the runs of all of them are grouped by its value instead. ``metric`` is by default the one that
    the runs monitor. ``where`` keeps the runs with these settings: ``where={"optimizer": "adam"}``, or as texts,
    ``where=["optimizer=adam"]``. Raises ``ConfigError`` if the runs can't be compared.
    """
    from digitlab.api.comparisons import Comparisons

    if len(runs) == 1 and isinstance(runs[0], list | tuple):
        runs = tuple(runs[0])
    folders = [given_path(each, "runs") for each in runs]
    if not folders:
        raise ConfigError("runs", "none", "give two runs, sweeps or folders, or one sweep and key=...")
    return Comparisons(folders, key=key, metric=metric, where=where)


def remember_network(path: Path, model: Any) -> None:
    """Let this process build the network of the run in ``path``. Raises ``ConfigError`` if ``model`` is another one."""
    from digitlab.api.own_network import remember_for_run

    remember_for_run(RunFolder(path).read_config(), model)
