"""``sweep.dry_run=true``: shows which runs a sweep would train and about how much time and memory that takes.

``api.preflight`` calls it in place of the sweep. It leaves no file behind. Existing runs are found by their entries in
the sweep's manifest, the list of its runs.
"""

import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import track

from digitlab.config.fingerprint import fingerprint
from digitlab.core.durations import duration
from digitlab.core.errors import ConfigError, RunError
from digitlab.core.system import peak_memory_bytes
from digitlab.results.folder import RunFolder
from digitlab.results.table import print_table
from digitlab.sweeps.job_composer import JobComposer
from digitlab.sweeps.manifest import manifest_file, run_overrides
from digitlab.sweeps.search.settings import SearchPlan
from digitlab.sweeps.state import SweepRun, read_runs

# The measurement trains this many mini-batches: enough for a rate, few enough to take only a second or two.
_MEASURED_BATCHES = 50
# A longer list would push the estimates off the screen. ``sweep.dry_run=all`` lists every run.
_SHOWN_RUNS = 20

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A job of the sweep with its composed configuration; ``run`` is the existing run with this configuration."""

    overrides: list[str]
    config: DictConfig
    run: SweepRun | None

    @property
    def finished(self) -> bool:
        """Whether the sweep has nothing to train here. Without halving, it continues a run that halving has ended."""
        if self.run is None or self.run.status != "finished":
            return False
        halving = bool(OmegaConf.select(self.config, "sweep.halving"))
        return halving or self.run.result.get("halved_after_epoch") is None

    @property
    def epochs(self) -> int:
        return int(self.config.trainer.max_epochs)


def dry_run(
    folder: Path,
    jobs: Sequence[Sequence[str]],
    loader: ConfigLoader,
    config_name: str | None,
    *,
    launcher: DictConfig,
    all_rows: bool = False,
) -> None:
    """Print the runs of the sweep, then how the launcher would group them, then estimates of time and memory.

    ``folder`` is the sweep's folder, which need not exist; ``launcher`` is the node ``hydra.launcher``. Without
    ``all_rows``, only the first 20 runs are listed. Raises what training the first run raises.
    """
    planned = _plan(folder, jobs, loader, config_name)
    # A stopped run counts in full, although it would resume. So the estimate is too high rather than too low.
    unfinished = [each for each in planned if not each.finished]
    summary = [f"{len(planned)} runs, {len(planned) - len(unfinished)} of them finished before"]
    if unfinished and "max_members" in launcher:
        summary.append(_populations(folder, planned, launcher.max_members))
    if unfinished:
        summary.append(_estimate([each.run for each in planned if each.run is not None], unfinished))
    # The summary comes last, where the terminal shows it.
    _print_runs(folder, planned if all_rows else planned[:_SHOWN_RUNS])
    if not all_rows and len(planned) > _SHOWN_RUNS:
        print(f"and {len(planned) - _SHOWN_RUNS} more runs: sweep.dry_run=all lists all of them")
    for line in summary:
        print(line)


def dry_run_search(folder: Path, plan: SearchPlan, loader: ConfigLoader, config_name: str | None) -> None:
    """Print the space of the search in ``folder``, its number of runs, and estimates of time and memory.

    A trial is one choice of values by the search; it is one run, or several with different seeds. Raises what training
    an example of these runs raises.
    """
    rows = [[parameter.key, parameter.typed] for parameter in plan.space.parameters]
    print_table(["key", "chosen from"], rows, title=str(folder), words=2)
    existing_runs = read_runs(folder) if manifest_file(folder).exists() else []
    finished = sum(run.status == "finished" for run in existing_runs)
    print(f"{plan.trials} trials by {plan.settings.sampler}: {plan.runs} runs, {finished} of them finished before")
    # Nobody knows what the search will choose, so the list repeats one example, once for each unfinished run.
    unfinished = _plan(folder, [plan.space.example()], loader, config_name) * (plan.runs - finished)
    if unfinished:
        print(_estimate(existing_runs, unfinished))


def _plan(
    folder: Path, jobs: Sequence[Sequence[str]], loader: ConfigLoader, config_name: str | None
) -> list[PlannedRun]:
    """Compose ``jobs``, given by their overrides, and find the existing run of each in ``folder``."""
    existing_runs: dict[str, SweepRun] = {}
    if manifest_file(folder).exists():
        # The sweep identifies runs by the fingerprints of their configurations too, so it would resume the same runs.
        existing_runs = {run.entry.fingerprint: run for run in read_runs(folder)}
    # One composer for all jobs, because it composes only once what they have in common.
    composer = JobComposer(loader, config_name)
    planned = []
    for job in _with_progress(jobs, "composing the runs"):
        config = composer.compose(job)
        planned.append(PlannedRun(run_overrides(job), config, existing_runs.get(fingerprint(config))))
    return planned


def _with_progress(items: Sequence[T], description: str) -> Iterable[T]:
    """Yield ``items``, and show the progress in one line on stderr if that is a terminal."""
    console = Console(file=sys.stderr)
    return track(items, description, console=console, transient=True, disable=not console.is_terminal)


def _print_runs(folder: Path, planned: Sequence[PlannedRun]) -> None:
    rows = []
    for each in planned:
        number = "new" if each.run is None else str(each.run.entry.number)
        state = "" if each.run is None else each.run.status
        rows.append([number, state, " ".join(each.overrides)])
    print_table(["run", "state", "overrides"], rows, title=str(folder), words=3)


def _populations(sweep: Path, planned: Sequence[PlannedRun], max_members: int | str) -> str:
    """Return in one line how the launcher ``vectorized`` would group the runs of the folder ``sweep``.

    It trains runs that differ only in numbers together, as a population. ``max_members`` is its limit or ``auto``.
    Raises ``ConfigError`` if the launcher would refuse the runs.
    """
    # These import torch, which takes seconds. A dry run with the basic launcher does not need them.
    from digitlab.population.grouping import populations
    from digitlab.population.job import Job, read_job

    jobs: list[Job] = []
    unfinished_count = 0
    for number, each in enumerate(_with_progress(planned, "grouping the runs")):
        if each.finished:
            continue
        unfinished_count += 1
        # A new run has no folder yet, and no folder has this name.
        folder = RunFolder(sweep / f".new_{number}") if each.run is None else each.run.folder
        try:
            jobs.append(read_job(number, each.config, folder, overrides=each.overrides, repair=False))
        except (ConfigError, RunError):
            continue  # this run will fail on its own, so it is in no population
    # The launcher makes the same jobs and calls the same function, so the sweep will have the same groups.
    groups = populations(jobs, max_members=None if isinstance(max_members, str) else max_members)
    sizes = sorted((len(group) for group in groups if len(group) > 1), reverse=True)
    single_runs = unfinished_count - sum(sizes)
    populations_text = f"{len(sizes)} populations of {', '.join(map(str, sizes))} runs" if sizes else "no populations"
    return f"{populations_text}; {single_runs} runs one by one"


def _estimate(existing_runs: Sequence[SweepRun], unfinished: Sequence[PlannedRun]) -> str:
    """Measure the first of the unfinished runs, and return estimates of time and memory in one line."""
    # The times of whole runs of this sweep are more reliable than a short measurement.
    epoch_seconds = [
        run.result["train_seconds"] / run.result["epochs"] for run in existing_runs if run.result.get("epochs")
    ]
    with Console(file=sys.stderr).status("measuring the first run"):
        result, memory = _measure(unfinished[0].config)
        if epoch_seconds:
            source, seconds_per_epoch = f"{len(epoch_seconds)} earlier runs", statistics.fmean(epoch_seconds)
        else:
            source = f"{_MEASURED_BATCHES} mini-batches of the first run"
            seconds_per_epoch = _training_images(unfinished[0].config) / result["images_per_second"]
    # Early stopping may end runs sooner, so this is an upper bound.
    epochs = sum(each.epochs for each in unfinished)
    seconds = epochs * seconds_per_epoch
    memory_text = "" if memory is None else f", and {memory} a process (measured on the first run)"
    return (
        f"about {duration(seconds)} of training one after another ({epochs} epochs at most, measured on {source})"
        f"{memory_text}"
    )


def _training_images(config: DictConfig) -> int:
    """Return the number of images in one epoch of ``config``."""
    from digitlab.training.experiment import Experiment

    experiment = Experiment.from_config(config, typed=[])
    experiment.data.setup()
    images, limit = len(experiment.data.train_indices), experiment.trainer.limit_train_batches
    return images if limit is None else min(images, limit * experiment.data.batch_size)


def _measure(config: DictConfig) -> tuple[dict[str, Any], str | None]:
    """Train the first mini-batches of ``config``; return the result and the peak memory of this process as text.

    The text is None if the system does not say how much memory a process has used.
    """
    import torch

    from digitlab.core.abilities import abilities
    from digitlab.training import train

    # Validation, the test and the profiler take time but do not change the speed of training, so they are off or short.
    short_config = OmegaConf.merge(
        config,
        {
            "trainer": {"max_epochs": 1, "limit_val_batches": 1, "progress_bar": False, "profiler": None},
            "test": "none",
        },
    )
    assert isinstance(short_config, DictConfig)
    # The user's own limit may be smaller.
    limit = short_config.trainer.limit_train_batches
    short_config.trainer.limit_train_batches = min(limit or _MEASURED_BATCHES, _MEASURED_BATCHES)
    # A folder outside outputs/, so that no command mistakes this training for a run.
    with TemporaryDirectory() as folder:
        result = train(short_config, folder=Path(folder), overrides=[]).result
    # The peak of this process includes the imports, which each process of the sweep needs as well.
    peak = peak_memory_bytes()
    memory = None if peak is None else f"{peak / 2**20:.0f} MiB"
    device = torch.device(result["hardware"]["device"])
    if (peak_on_device := abilities(device).peak_memory) is not None:
        gpu_memory = f"{peak_on_device(device) / 2**20:.0f} MiB of the GPU's memory"
        memory = gpu_memory if memory is None else f"{memory} and {gpu_memory}"
    return result, memory
