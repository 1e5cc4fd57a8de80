"""``sweep.dry_run=true``: shows what a sweep would run and about how much time and memory that takes.

``api.preflight`` calls it in place of the sweep. It leaves no file behind.
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
from digitlab.core.errors import ConfigError
from digitlab.core.system import peak_memory_bytes
from digitlab.results.folder import RunFolder
from digitlab.results.table import print_table
from digitlab.sweeps.job_composer import JobComposer
from digitlab.sweeps.manifest import manifest_file, run_overrides
from digitlab.sweeps.search.settings import SearchPlan
from digitlab.sweeps.state import SweepRun, read_runs

# The measurement trains this many mini-batches: enough for a rate, few enough to take only a second or two.
_MEASURED_BATCHES = 50
# A longer list would push the answer off the screen. ``sweep.dry_run=all`` lists every run.
_SHOWN_RUNS = 20

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A job of the sweep with its composed configuration; ``run`` is the run that already has it, if there is one."""

    overrides: list[str]
    config: DictConfig
    run: SweepRun | None

    @property
    def finished(self) -> bool:
        return self.run is not None and self.run.status == "finished"

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
    # Runs that were stopped count as left: they resume, so the estimate for them is too high rather than too low.
    left = [each for each in planned if not each.finished]
    summary = [f"{len(planned)} runs, {len(planned) - len(left)} of them finished before"]
    if left and "max_members" in launcher:
        summary.append(_populations(left, launcher.max_members))
    if left:
        summary.append(_estimate([each.run for each in planned if each.run is not None], left))
    # The answer comes last, where the terminal shows it.
    _print_runs(folder, planned if all_rows else planned[:_SHOWN_RUNS])
    if not all_rows and len(planned) > _SHOWN_RUNS:
        print(f"and {len(planned) - _SHOWN_RUNS} more runs: sweep.dry_run=all lists all of them")
    for line in summary:
        print(line)


def dry_run_search(folder: Path, plan: SearchPlan, loader: ConfigLoader, config_name: str | None) -> None:
    """Print the space of the search in ``folder``, its number of runs, and estimates of time and memory.

    Raises what training a run raises that the search might choose.
    """
    rows = [[parameter.key, parameter.typed] for parameter in plan.space.parameters]
    print_table(["key", "chosen from"], rows, title=str(folder), words=2)
    before = read_runs(folder) if manifest_file(folder).exists() else []
    finished = sum(run.status == "finished" for run in before)
    print(f"{plan.trials} trials by {plan.settings.sampler}: {plan.runs} runs, {finished} of them finished before")
    # Nobody knows what the search will choose, so one example stands for every run.
    left = _plan(folder, [plan.space.example()], loader, config_name) * (plan.runs - finished)
    if left:
        print(_estimate(before, left))


def _plan(
    folder: Path, jobs: Sequence[Sequence[str]], loader: ConfigLoader, config_name: str | None
) -> list[PlannedRun]:
    known: dict[str, SweepRun] = {}
    if manifest_file(folder).exists():
        # The same identity as in the manifest, so this finds exactly the runs that the sweep would resume.
        known = {run.entry.fingerprint: run for run in read_runs(folder)}
    # One composer for all jobs, because it keeps what they have in common.
    composer = JobComposer(loader, config_name)
    planned = []
    for job in _with_progress(jobs, "composing the runs"):
        config = composer.compose(job)
        planned.append(PlannedRun(run_overrides(job), config, known.get(fingerprint(config))))
    return planned


def _with_progress(items: Sequence[T], description: str) -> Iterable[T]:
    """``items`` one by one, with one line of progress on stderr if that is a terminal."""
    console = Console(file=sys.stderr)
    return track(items, description, console=console, transient=True, disable=not console.is_terminal)


def _print_runs(folder: Path, planned: Sequence[PlannedRun]) -> None:
    rows = []
    for each in planned:
        number = "new" if each.run is None else str(each.run.entry.number)
        state = "" if each.run is None else each.run.status
        rows.append([number, state, " ".join(each.overrides)])
    print_table(["run", "state", "overrides"], rows, title=str(folder), words=3)


def _populations(left: Sequence[PlannedRun], max_members: int | str) -> str:
    """How the launcher ``vectorized`` would group the runs, in one line."""
    # Imports torch, which takes seconds; a dry run with the basic launcher does without it.
    from digitlab.population.grouping import populations
    from digitlab.population.job import Job
    from digitlab.training.experiment import Experiment

    jobs = []
    # Numbers continue after those of the runs there are, as they do when the sweep itself resumes.
    first = sum(each.run is not None for each in left)
    for number, each in enumerate(_with_progress(left, "grouping the runs"), start=first):
        try:
            experiment = Experiment.from_config(each.config, typed=each.overrides)
        except ConfigError:
            continue  # this run will fail on its own, so it is in no population
        folder = RunFolder(Path(str(number)))
        jobs.append(
            Job(number=number, config=each.config, experiment=experiment, folder=folder, overrides=each.overrides)
        )
    # The launcher's own function decides, so the answer cannot differ from what the sweep will do.
    groups = populations(jobs, max_members=None if isinstance(max_members, str) else max_members)
    sizes = sorted((len(group) for group in groups if len(group) > 1), reverse=True)
    alone = len(left) - sum(sizes)
    together = f"{len(sizes)} populations of {', '.join(map(str, sizes))} runs" if sizes else "no populations"
    return f"{together}; {alone} runs one by one"


def _estimate(before: Sequence[SweepRun], left: Sequence[PlannedRun]) -> str:
    # Finished runs of this sweep are the best guide; without any, a short measurement has to do.
    rates = [run.result["train_seconds"] / run.result["epochs"] for run in before if run.result.get("epochs")]
    with Console(file=sys.stderr).status("measuring the first run"):
        result, memory = _measure(left[0].config)
        if rates:
            source, seconds_per_epoch = f"the {len(rates)} runs there are", statistics.fmean(rates)
        else:
            source = f"{_MEASURED_BATCHES} mini-batches of the first run"
            seconds_per_epoch = _training_images(left[0].config) / result["images_per_second"]
    # Early stopping may end runs sooner, so this is an upper bound.
    epochs = sum(each.epochs for each in left)
    seconds = epochs * seconds_per_epoch
    used = "" if memory is None else f", and {memory} a process (measured on the first run)"
    return f"about {duration(seconds)} of training one after another ({epochs} epochs at most, by {source}){used}"


def _training_images(config: DictConfig) -> int:
    """How many images one epoch of ``config`` trains on."""
    from digitlab.training.experiment import Experiment

    experiment = Experiment.from_config(config, typed=[])
    experiment.data.setup()
    images, limit = len(experiment.data.train_indices), experiment.trainer.limit_train_batches
    return images if limit is None else min(images, limit * experiment.data.batch_size)


def _measure(config: DictConfig) -> tuple[dict[str, Any], str | None]:
    """Train the first mini-batches of ``config``; return the result and the peak memory of this process, as text.

    The text is None if the system does not say.
    """
    import torch

    from digitlab.core.abilities import abilities
    from digitlab.training import train

    # What costs time but says nothing about the rate is off: validation, the test, the profiler.
    short = OmegaConf.merge(
        config,
        {
            "trainer": {"max_epochs": 1, "limit_val_batches": 1, "progress_bar": False, "profiler": None},
            "test": "none",
        },
    )
    assert isinstance(short, DictConfig)
    # The user's own limit counts if it is smaller still.
    limit = short.trainer.limit_train_batches
    short.trainer.limit_train_batches = min(limit or _MEASURED_BATCHES, _MEASURED_BATCHES)
    # Outside outputs/, so that no command ever takes this training for a run.
    with TemporaryDirectory() as folder:
        result = train(short, folder=Path(folder), overrides=[]).result
    # The peak of the whole process, imports included: what each process of the sweep will need as well.
    peak = peak_memory_bytes()
    memory = None if peak is None else f"{peak / 2**20:.0f} MiB"
    device = torch.device(result["hardware"]["device"])
    if (peak_on_device := abilities(device).peak_memory) is not None:
        of_device = f"{peak_on_device(device) / 2**20:.0f} MiB of the GPU's memory"
        memory = of_device if memory is None else f"{memory} and {of_device}"
    return result, memory
