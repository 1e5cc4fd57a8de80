"""``sweep.dry_run=true``: what a sweep would run, about how long and in how much memory. It leaves nothing behind."""

import resource
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from digitlab.config.fingerprint import fingerprint
from digitlab.core.errors import ConfigError
from digitlab.results.folder import RunFolder
from digitlab.results.table import print_table
from digitlab.sweeps.manifest import manifest_file, run_overrides
from digitlab.sweeps.progress import duration
from digitlab.sweeps.search.settings import SearchPlan
from digitlab.sweeps.state import SweepRun, read_runs

# Mini-batches of a measurement: enough for a rate, few enough for a second or two.
_MEASURED_BATCHES = 50


@dataclass(frozen=True, slots=True)
class Planned:
    """A job of the sweep, composed: ``run`` is the one that has its configuration already, if there is one."""

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
) -> None:
    """Print the runs of the sweep in ``folder``, which need not be there, its populations, if any, and estimates.

    Raises what the training of the first run raises.
    """
    plan = _plan(folder, jobs, loader, config_name)
    _print_runs(folder, plan)
    left = [planned for planned in plan if not planned.finished]
    print(f"{len(plan)} runs, {len(plan) - len(left)} of them finished before")
    if left and "max_members" in launcher:
        print(_populations(left, launcher.max_members))
    if left:
        print(_estimate([planned.run for planned in plan if planned.run is not None], left))


def dry_run_search(folder: Path, plan: SearchPlan, loader: ConfigLoader, config_name: str | None) -> None:
    """Print what the search in ``folder`` chooses from, how many runs it will ask for, and estimates.

    Raises what the training of a run that it might choose raises.
    """
    rows = [[parameter.key, parameter.typed] for parameter in plan.space.parameters]
    print_table(["key", "chosen from"], rows, title=str(folder), words=2)
    before = read_runs(folder) if manifest_file(folder).exists() else []
    finished = sum(run.status == "finished" for run in before)
    print(f"{plan.trials} trials by {plan.settings.sampler}: {plan.runs} runs, {finished} of them finished before")
    left = _plan(folder, [plan.space.example()], loader, config_name) * (plan.runs - finished)
    if left:
        print(_estimate(before, left))


def _plan(folder: Path, jobs: Sequence[Sequence[str]], loader: ConfigLoader, config_name: str | None) -> list[Planned]:
    known: dict[str, SweepRun] = {}
    if manifest_file(folder).exists():
        known = {run.entry.fingerprint: run for run in read_runs(folder)}
    plan = []
    for job in jobs:
        config = loader.load_configuration(config_name, list(job), run_mode=RunMode.RUN)
        with open_dict(config):
            del config["hydra"]
        plan.append(Planned(run_overrides(job), config, known.get(fingerprint(config))))
    return plan


def _print_runs(folder: Path, plan: Sequence[Planned]) -> None:
    rows = []
    for planned in plan:
        number = "new" if planned.run is None else str(planned.run.entry.number)
        state = "" if planned.run is None else planned.run.status
        rows.append([number, state, " ".join(planned.overrides)])
    print_table(["run", "state", "overrides"], rows, title=str(folder), words=3)


def _populations(left: Sequence[Planned], most: int | str) -> str:
    """How the launcher would put the runs together."""
    from digitlab.population.grouping import populations
    from digitlab.population.member import Job
    from digitlab.training.experiment import Experiment

    jobs = []
    # As in a sweep that goes on, none has the number 0 then.
    for number, planned in enumerate(left, start=sum(planned.run is not None for planned in left)):
        try:
            experiment = Experiment.from_config(planned.config, typed=planned.overrides)
        except ConfigError:
            continue  # fails alone, when it runs
        folder = RunFolder(Path(str(number)))
        jobs.append(
            Job(number=number, config=planned.config, experiment=experiment, folder=folder, overrides=planned.overrides)
        )
    groups = populations(jobs, max_members=None if isinstance(most, str) else most)
    sizes = sorted((len(group) for group in groups if len(group) > 1), reverse=True)
    alone = len(left) - sum(sizes)
    together = f"{len(sizes)} populations of {', '.join(map(str, sizes))} runs" if sizes else "no populations"
    return f"{together}; {alone} runs one by one"


def _estimate(before: Sequence[SweepRun], left: Sequence[Planned]) -> str:
    rates = [run.result["train_seconds"] / run.result["epochs"] for run in before if run.result.get("epochs")]
    result, mebibytes = _measure(left[0].config)
    if rates:
        source, seconds_per_epoch = f"the {len(rates)} runs there are", statistics.fmean(rates)
    else:
        source = f"{_MEASURED_BATCHES} mini-batches of the first run"
        seconds_per_epoch = _training_images(left[0].config) / result["images_per_second"]
    epochs = sum(planned.epochs for planned in left)
    seconds = epochs * seconds_per_epoch
    return (
        f"about {duration(seconds)} of training one after another ({epochs} epochs at most, by {source}), "
        f"and {mebibytes:.0f} MiB a process (measured on the first run)"
    )


def _training_images(config: DictConfig) -> int:
    """How many images an epoch of ``config`` trains on."""
    from digitlab.training.experiment import Experiment

    experiment = Experiment.from_config(config, typed=[])
    experiment.data.setup()
    images, limit = len(experiment.data.train_indices), experiment.trainer.limit_train_batches
    return images if limit is None else min(images, limit * experiment.data.batch_size)


def _measure(config: DictConfig) -> tuple[dict[str, Any], float]:
    """The result of the first mini-batches of ``config``, and the most memory that this process has held, in MiB."""
    from digitlab.training import train

    short = OmegaConf.merge(
        config,
        {
            "trainer": {"max_epochs": 1, "limit_val_batches": 1, "progress_bar": False, "profiler": None},
            "test": "none",
        },
    )
    assert isinstance(short, DictConfig)
    limit = short.trainer.limit_train_batches
    short.trainer.limit_train_batches = min(limit or _MEASURED_BATCHES, _MEASURED_BATCHES)
    with TemporaryDirectory() as folder:
        result = train(short, folder=Path(folder), overrides=[]).result
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return result, peak / 2**20 if sys.platform == "darwin" else peak / 2**10
